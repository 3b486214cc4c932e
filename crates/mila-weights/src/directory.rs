//! A model directory: `config.json`, `model.safetensors`, and perhaps `labels.txt`.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use mila_ops::Values;

use crate::limits::{self, CONFIG_BYTES};
use crate::safetensors_file::write_tensors;
use crate::whole_file::write_whole;
use crate::{Checkpoint, Config, Error, Result, Which, is_ignored};

pub(crate) const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const LABELS: &str = "labels.txt";

/// A model directory whose configuration has been read.
#[derive(Clone, Debug)]
pub struct ModelDirectory {
    path: PathBuf,
    config: Config,
}

impl ModelDirectory {
    /// Reads `config.json`, and the class names from `labels.txt` (one a line) if the configuration has none.
    ///
    /// # Errors
    /// [`Error::Io`] with the path of the file, [`Error::Config`] with the key.
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.join(CONFIG);
        let json = read_small(&file)?.ok_or_else(|| Error::io("open", &file, ErrorKind::NotFound.into()))?;
        let mut config = Config::from_json(&json)?;
        if config.label_names.is_none()
            && let Some(labels) = read_small(&path.join(LABELS))?
        {
            let labels = String::from_utf8(labels).map_err(|error| Error::Config {
                key: LABELS.into(),
                expected: "UTF-8 text".into(),
                found: error.to_string(),
            })?;
            config.label_names = Some(labels.lines().map(str::to_string).collect());
            config.validate()?;
        }
        Ok(Self { path: path.to_path_buf(), config })
    }

    /// The configuration, with the class names of `labels.txt` if it had none.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Opens the weights.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn weights(&self) -> Result<Checkpoint> {
        Checkpoint::open(&self.path, Which::Raw)
    }

    /// Writes a directory: tensors (name, shape, values) without the derived ones ([`is_ignored`]), labels, and the
    /// configuration last, each whole or not at all; what an interrupted write has not reached is as it was.
    ///
    /// # Errors
    /// [`Error::Config`] before anything is written; [`Error::Io`] with the path; those of [`write_tensors`].
    pub fn write<'a>(
        path: &Path,
        config: &Config,
        tensors: impl IntoIterator<Item = (String, Vec<usize>, Values<'a>)>,
    ) -> Result<Self> {
        let json = config.to_json()?;
        fs::create_dir_all(path).map_err(|source| Error::io("create", path, source))?;
        write_tensors(&path.join(WEIGHTS), tensors.into_iter().filter(|(name, _, _)| !is_ignored(name)))?;
        let labels = path.join(LABELS);
        match &config.label_names {
            Some(names) => write_whole(&labels, |file| names.iter().try_for_each(|name| writeln!(file, "{name}")))?,
            // Those of the model that was here before would be taken for this one's.
            None => match fs::remove_file(&labels) {
                Err(source) if source.kind() != ErrorKind::NotFound => {
                    return Err(Error::io("remove", &labels, source));
                }
                _ => {}
            },
        }
        write_whole(&path.join(CONFIG), |file| file.write_all(&json))?;
        Ok(Self { path: path.to_path_buf(), config: config.clone() })
    }
}

/// The content of a small file; `None` if there is none.
fn read_small(path: &Path) -> Result<Option<Vec<u8>>> {
    let problem = |source| Error::io("read", path, source);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(problem(error)),
    };
    let mut content = Vec::new();
    file.take(CONFIG_BYTES + 1).read_to_end(&mut content).map_err(problem)?;
    limits::at_most("bytes of a configuration file", CONFIG_BYTES, content.len() as u64)?;
    Ok(Some(content))
}
