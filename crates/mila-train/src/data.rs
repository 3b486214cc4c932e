//! What a run trains and validates on.

use std::path::Path;

use mila_data::{Dataset, ImageSource};

use crate::{Config, Result};

/// What a run trains and validates on.
#[derive(Clone, Debug)]
pub struct Data {
    /// Pictures to train on.
    pub train: ImageSource,
    /// Pictures to validate on after each epoch.
    pub validation: ImageSource,
    /// A name for each class.
    pub classes: Vec<String>,
}

impl Data {
    /// The dataset that the configuration names.
    ///
    /// # Errors
    /// Those of [`Dataset::open`].
    pub fn open(config: &Config) -> Result<Self> {
        let Dataset { train, validation } = Dataset::open(&config.data, config.val_fraction, config.seed)?;
        let classes = train.classes.clone();
        Ok(Self { train: ImageSource::Folder(train), validation: ImageSource::Folder(validation), classes })
    }
}

/// A hash of the pictures in their order: of their classes and their names below `root`, or of their classes and pixels
/// where they have no names. It tells a list that changed from one that was moved.
pub(crate) fn fingerprint(source: &ImageSource, root: &Path) -> u64 {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    match source {
        ImageSource::Folder(samples) => {
            for sample in &samples.items {
                let name = sample.path.strip_prefix(root).unwrap_or(&sample.path);
                hash.add(name.as_os_str().as_encoded_bytes());
                hash.add(&sample.class.to_le_bytes());
            }
        }
        ImageSource::Memory { pictures, labels } => {
            for (picture, label) in pictures.iter().zip(labels) {
                hash.add(&(picture.width() as u64).to_le_bytes());
                hash.add(picture.pixels());
                hash.add(&label.to_le_bytes());
            }
        }
    }
    hash.0
}

/// FNV-1a: the standard library's hashes may change from one release to the next.
struct Fnv(u64);

impl Fnv {
    /// Adds the bytes and then their number, so that no two divisions of the same bytes are alike.
    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes.iter().chain(&(bytes.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use mila_data::{Sample, Samples};

    use super::*;

    fn folder(files: &[(&str, u32)]) -> ImageSource {
        let items = files.iter().map(|&(path, class)| Sample { path: path.into(), class }).collect();
        ImageSource::Folder(Samples { classes: vec!["a".into(), "b".into()], items, ignored: 0 })
    }

    #[test]
    fn a_list_is_known_again_wherever_it_lies() {
        let of = |root: &str, files: &[(&str, u32)]| fingerprint(&folder(files), Path::new(root));
        let known = of("/x", &[("/x/a/1.png", 0), ("/x/b/2.png", 1)]);
        assert_eq!(known, of("/y/z", &[("/y/z/a/1.png", 0), ("/y/z/b/2.png", 1)]));
        for other in [
            [("/x/b/2.png", 1), ("/x/a/1.png", 0)],
            [("/x/a/1.png", 0), ("/x/b/3.png", 1)],
            [("/x/a/1.png", 0), ("/x/b/2.png", 0)],
        ] {
            assert_ne!(known, of("/x", &other), "{other:?}");
        }
    }
}
