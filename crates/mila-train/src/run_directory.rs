//! The files of a run.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, Result, state};

/// `config.toml`, `env.json`, `metrics.csv`, `log.jsonl`, `last/`, `best/`, `state/`, `plots/`.
#[derive(Clone, Debug)]
pub struct RunDirectory {
    root: PathBuf,
}

impl RunDirectory {
    /// Makes a new run directory, where there is no folder, an empty one, or what is left of an attempt that failed.
    ///
    /// # Errors
    /// [`Error::Occupied`] if anything else is there already; [`Error::Io`] if it cannot be made.
    pub fn create(root: &Path) -> Result<Self> {
        let directory = Self { root: root.to_owned() };
        let occupied = |holds| Err(Error::Occupied { path: root.to_owned(), holds });
        if directory.config().exists() {
            return occupied("a run already; go on with it by `mila train --resume`, or choose another --out");
        }
        let plots = directory.plots();
        if root.is_dir() {
            for entry in entries(root)? {
                if entry != directory.environment()
                    && !(entry == plots && plots.is_dir() && entries(&plots)?.is_empty())
                {
                    return occupied("files that are no run's; choose another --out");
                }
            }
        }
        std::fs::create_dir_all(&plots).map_err(Error::io(plots))?;
        Ok(directory)
    }

    /// The directory of a run that is there already.
    ///
    /// # Errors
    /// [`Error::State`] if `root` holds no run.
    pub fn open(root: &Path) -> Result<Self> {
        let directory = Self { root: root.to_owned() };
        if directory.config().is_file() {
            return Ok(directory);
        }
        Err(Error::State { path: root.to_owned(), problem: "expected a run directory with a config.toml".into() })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// Program, processor and command line.
    pub fn environment(&self) -> PathBuf {
        self.root.join("env.json")
    }

    /// One row per epoch.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.csv")
    }

    /// One JSON object per event.
    pub fn log(&self) -> PathBuf {
        self.root.join("log.jsonl")
    }

    /// Model directory of the last finished epoch.
    pub fn last(&self) -> PathBuf {
        self.root.join("last")
    }

    /// Model directory of the epoch with the best validation top-1.
    pub fn best(&self) -> PathBuf {
        self.root.join("best")
    }

    /// What resuming needs.
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Whether a state was saved.
    pub fn has_state(&self) -> bool {
        state::find(&self.state()).is_some()
    }

    /// Pictures of the run.
    pub fn plots(&self) -> PathBuf {
        self.root.join("plots")
    }

    /// Adds an event to the log.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn log_event(&self, event: &serde_json::Value) -> Result<()> {
        let path = self.log();
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path))?;
        file.write_all(format!("{event}\n").as_bytes()).map_err(Error::io(&path))
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    read.map(|entry| Ok(entry.map_err(Error::io(folder))?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_free_folder_becomes_a_run_directory() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("runs/first");
        let directory = RunDirectory::create(&root).unwrap();
        // A run that was given up before it began may begin again.
        std::fs::write(directory.environment(), "{}").unwrap();
        RunDirectory::create(&root).unwrap();
        assert!(matches!(RunDirectory::open(&root), Err(Error::State { .. })));
        std::fs::write(directory.config(), "").unwrap();
        assert_eq!(RunDirectory::open(&root).unwrap().root(), root);
        let error = RunDirectory::create(&root).unwrap_err().to_string();
        assert!(error.contains("--resume"), "{error}");
    }

    #[test]
    fn files_of_others_are_left_alone() {
        for own in ["state/notes.txt", "last/model.safetensors", "plots/figure.svg", "thesis.tex", "plots"] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join(own);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, "mine").unwrap();
            let error = RunDirectory::create(folder.path()).unwrap_err();
            assert!(matches!(error, Error::Occupied { .. }), "{own}: {error}");
            assert_eq!(std::fs::read(&file).unwrap(), b"mine");
        }
    }

    #[test]
    fn events_are_lines() {
        let folder = tempfile::tempdir().unwrap();
        let directory = RunDirectory::create(folder.path()).unwrap();
        for step in [1, 2] {
            directory.log_event(&serde_json::json!({ "step": step })).unwrap();
        }
        assert_eq!(std::fs::read_to_string(directory.log()).unwrap(), "{\"step\":1}\n{\"step\":2}\n");
    }
}
