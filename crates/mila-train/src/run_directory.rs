//! The files of a run.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// `config.toml`, `env.json`, `metrics.csv`, `log.jsonl`, `last/`, `best/`, `state/`, `plots/`.
#[derive(Clone, Debug)]
pub struct RunDirectory {
    root: PathBuf,
}

impl RunDirectory {
    /// Makes a new run directory.
    ///
    /// # Errors
    /// [`Error::Occupied`] if a run is there already; [`Error::Io`] if it cannot be made.
    pub fn create(root: &Path) -> Result<Self> {
        let directory = Self { root: root.to_owned() };
        if directory.config().exists() {
            return Err(Error::Occupied(root.to_owned()));
        }
        let plots = directory.plots();
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

/// Writes a whole file: under a temporary name beside it first, so that it is never seen half-written.
///
/// # Errors
/// [`Error::Io`]; the temporary file is gone then.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(Error::io(path))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(Error::io(path))?;
    file.persist(path).map_err(|e| Error::Io { path: path.to_owned(), source: e.error })?;
    Ok(())
}
