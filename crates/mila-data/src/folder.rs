//! Class-folder data sets, read as torchvision's `ImageFolder` reads them.
//!
//! A *set* is a folder of class folders; the classes are the folder names, sorted bytewise, and an image may lie at any
//! depth below its class. *Data* is a set, or a folder that holds nothing but splits: `train`, and `val`, `validation` or
//! `test`. Hidden files and folders (torchvision takes hidden folders as classes) and files that are no images by name are
//! ignored and counted. Links to folders are followed, each real folder once per class, so that a loop of links ends.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::rng::Rng;

/// One image and its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The file.
    pub path: PathBuf,
    /// An index into the classes.
    pub class: u32,
}

/// The images of one set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Samples {
    /// Class names, sorted bytewise; what is not UTF-8 in them is replaced by U+FFFD.
    pub classes: Vec<String>,
    /// The images, by class, then by folder, then by name.
    pub items: Vec<Sample>,
    /// Files and folders that were passed over.
    pub ignored: usize,
}

/// A split of a data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// The folder `train`.
    Train,
    /// The folder `val`, else `validation`.
    Validation,
    /// The folder `test`.
    Test,
}

impl Split {
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Train => &["train"],
            Self::Validation => &["val", "validation"],
            Self::Test => &["test"],
        }
    }

    fn find(self, data: &Path) -> Option<PathBuf> {
        self.names().iter().map(|name| data.join(name)).find(|dir| dir.is_dir())
    }
}

/// A training set and a validation set with the same classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// What is trained on.
    pub train: Samples,
    /// What is measured on.
    pub validation: Samples,
}

impl Dataset {
    /// Opens `data`: with the splits `train` and `val` (or `validation`, or `test` where neither exists) as they are;
    /// a single set, or `train` alone, is divided by [`Samples::divide`].
    ///
    /// Errors: unreadable folders, no or empty class folders, classes that differ between the splits.
    pub fn open(data: &Path, val_fraction: f64, seed: u64) -> Result<Self> {
        if !has_splits(data)? {
            let (train, validation) = Samples::open(data)?.divide(val_fraction, seed)?;
            return Ok(Self { train, validation });
        }
        let train = Samples::open_split(data, Split::Train)?;
        let Some(dir) = Split::Validation.find(data).or_else(|| Split::Test.find(data)) else {
            let (train, validation) = train.divide(val_fraction, seed)?;
            return Ok(Self { train, validation });
        };
        let validation = Samples::open(&dir)?;
        let lacking = |of: &[String], from: &[String]| -> Vec<String> {
            of.iter().filter(|class| !from.contains(class)).cloned().collect()
        };
        let missing = lacking(&train.classes, &validation.classes);
        let unexpected = lacking(&validation.classes, &train.classes);
        if !(missing.is_empty() && unexpected.is_empty()) {
            return Err(Error::ClassMismatch { dir, missing, unexpected });
        }
        Ok(Self { train, validation })
    }
}

impl Samples {
    /// Opens a set: a folder of class folders.
    ///
    /// Errors: an unreadable folder, [`Error::NoClasses`], and [`Error::EmptyClasses`] with all classes without an image.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut ignored = 0;
        let mut folders = Vec::new();
        for entry in entries(dir)? {
            if is_hidden(&entry) || !entry.is_dir() {
                ignored += 1;
            } else {
                folders.push(entry);
            }
        }
        if folders.is_empty() {
            return Err(Error::NoClasses { dir: dir.to_owned() });
        }
        let mut samples = Self { classes: Vec::new(), items: Vec::new(), ignored };
        let mut empty = Vec::new();
        for (class, folder) in (0..).zip(&folders) {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let mut walk = Walk { paths: Vec::new(), ignored: 0, seen: HashSet::new() };
            walk.visit(folder)?;
            if walk.paths.is_empty() {
                empty.push(name.clone());
            }
            samples.classes.push(name);
            samples.items.extend(walk.paths.into_iter().map(|path| Sample { path, class }));
            samples.ignored += walk.ignored;
        }
        if !empty.is_empty() {
            return Err(Error::EmptyClasses { dir: dir.to_owned(), classes: empty });
        }
        Ok(samples)
    }

    /// Opens one split of `data`; [`Error::NoSplit`] where its folder is absent.
    pub fn open_split(data: &Path, split: Split) -> Result<Self> {
        let expected = match split {
            Split::Train => "train",
            Split::Validation => "val or validation",
            Split::Test => "test",
        };
        let dir = split.find(data).ok_or_else(|| Error::NoSplit { dir: data.to_owned(), expected })?;
        Self::open(&dir)
    }

    /// Divides by class into (train, validation): of n images of a class, `round(n * val_fraction)` go to validation, but
    /// at least one and never all; the only image of a class stays in training. A fraction of 0 leaves validation empty.
    /// The choice depends on the seed and the sorted order alone; both parts keep that order.
    pub fn divide(self, val_fraction: f64, seed: u64) -> Result<(Self, Self)> {
        if !(0.0..1.0).contains(&val_fraction) {
            return Err(Error::Setting {
                setting: "val_fraction",
                expected: "0 or more and less than 1",
                found: val_fraction.to_string(),
            });
        }
        let mut held = vec![false; self.items.len()];
        for class in 0..self.classes.len() as u32 {
            let mut of_class: Vec<usize> = (0..self.items.len()).filter(|&i| self.items[i].class == class).collect();
            let most = of_class.len().saturating_sub(1);
            let least = usize::from(val_fraction > 0.0).min(most);
            let count = ((of_class.len() as f64 * val_fraction).round() as usize).clamp(least, most);
            Rng::keyed(&[seed, u64::from(class)]).shuffle(&mut of_class);
            of_class.iter().take(count).for_each(|&index| held[index] = true);
        }
        let part = |wanted: bool| -> Vec<Sample> {
            self.items.iter().zip(&held).filter(|(_, held)| **held == wanted).map(|(item, _)| item.clone()).collect()
        };
        let (kept, out) = (part(false), part(true));
        let validation = Self { classes: self.classes.clone(), items: out, ignored: 0 };
        Ok((Self { classes: self.classes, items: kept, ignored: self.ignored }, validation))
    }
}

/// Whether the visible folders of `data` are splits and nothing else. A set may have a class that is called `test`.
///
/// Errors: an unreadable folder.
pub fn has_splits(data: &Path) -> Result<bool> {
    let all = [Split::Train, Split::Validation, Split::Test];
    let names = || all.iter().flat_map(|split| split.names());
    let folders: Vec<PathBuf> =
        entries(data)?.into_iter().filter(|entry| !is_hidden(entry) && entry.is_dir()).collect();
    let is_split = |dir: &PathBuf| names().any(|name| dir.file_name() == Some(OsStr::new(name)));
    Ok(!folders.is_empty() && folders.iter().all(is_split))
}

/// The images below one class folder.
struct Walk {
    paths: Vec<PathBuf>,
    ignored: usize,
    seen: HashSet<PathBuf>,
}

impl Walk {
    fn visit(&mut self, dir: &Path) -> Result<()> {
        let real = dir.canonicalize().map_err(|source| Error::Io { path: dir.to_owned(), source })?;
        if !self.seen.insert(real) {
            self.ignored += 1;
            return Ok(());
        }
        let mut folders = Vec::new();
        for entry in entries(dir)? {
            if is_hidden(&entry) {
                self.ignored += 1;
            } else if entry.is_dir() {
                folders.push(entry);
            } else if is_image(&entry) {
                self.paths.push(entry);
            } else {
                self.ignored += 1;
            }
        }
        folders.iter().try_for_each(|folder| self.visit(folder))
    }
}

/// What lies in a folder, sorted bytewise by name.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let unread = |source| Error::Io { path: dir.to_owned(), source };
    let read = std::fs::read_dir(dir).map_err(unread)?;
    let mut found = read.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>().map_err(unread)?;
    found.sort_by(|a, b| name_bytes(a).cmp(name_bytes(b)));
    Ok(found)
}

fn name_bytes(path: &Path) -> &[u8] {
    path.file_name().unwrap_or_default().as_encoded_bytes()
}

fn is_hidden(path: &Path) -> bool {
    name_bytes(path).starts_with(b".")
}

fn is_image(path: &Path) -> bool {
    const EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "bmp"];
    path.extension().is_some_and(|found| EXTENSIONS.iter().any(|known| found.eq_ignore_ascii_case(known)))
}
