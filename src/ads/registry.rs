//! Which version is active, which one was, and how traffic is split: one small file, replaced atomically.
//!
//! ```text
//! STATE/versions.json      {"crc32c": ..., "format": 1, "active": {"path", "id"}, "previous": .., "split": ..}
//! ```
//! After a roll back it also says `"rolled_back": true`.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::{seal_json, unseal_json};
use crate::vfs::{Vfs, replace_file};

const FILE: &str = "versions.json";
const FORMAT: u32 = 1;
/// A file larger than this is none.
const MAX_BYTES: u64 = 1 << 20;

/// A version on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionRef {
    /// The index directory.
    pub path: PathBuf,
    /// The index id that was in it, hexadecimal.
    pub id: String,
}

/// A share of the traffic for another version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitRef {
    /// Who gets it.
    pub version: VersionRef,
    /// How much, above 0 and below 1.
    pub share: f32,
}

/// What is served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    format: u32,
    /// The version that answers.
    pub active: VersionRef,
    /// The one that did before, to roll back to.
    pub previous: Option<VersionRef>,
    /// How traffic is split, if it is.
    pub split: Option<SplitRef>,
    /// Whether the active version is served because somebody rolled back to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rolled_back: bool,
}

impl Registry {
    /// Of what is served.
    pub fn new(active: VersionRef, previous: Option<VersionRef>, split: Option<SplitRef>) -> Registry {
        Registry { format: FORMAT, active, previous, split, rolled_back: false }
    }

    /// The versions that it names.
    pub fn versions(&self) -> impl Iterator<Item = &VersionRef> {
        let others = self.previous.iter().chain(self.split.as_ref().map(|split| &split.version));
        std::iter::once(&self.active).chain(others)
    }

    /// Reads the file in the folder `dir`, if there is one.
    ///
    /// # Errors
    /// `Corrupt` for a damaged file, `Unsupported` for one of a newer bigrain, `Io`.
    pub fn read(vfs: &dyn Vfs, dir: &Path) -> Result<Option<Registry>> {
        let path = dir.join(FILE);
        if !vfs.exists(&path)? {
            return Ok(None);
        }
        let file = vfs.open(&path)?;
        if file.len() > MAX_BYTES {
            return Err(Error::corrupt(&path, "header", format!("{} bytes are too many", file.len())));
        }
        let mut bytes = vec![0; file.len() as usize];
        file.read_exact_at(0, &mut bytes)?;
        let json = unseal_json(&path, &bytes)?;
        let wrong = |error: serde_json::Error| Error::corrupt(&path, "header", error.to_string());
        let registry: Registry = serde_json::from_slice(&json).map_err(wrong)?;
        if registry.format != FORMAT {
            return Err(Error::Unsupported {
                what: format!("{}: format {}", path.display(), registry.format),
                remedy: format!("this bigrain reads format {FORMAT}; use the one that wrote it"),
            });
        }
        Ok(Some(registry))
    }

    /// Puts this in the place of the file in `dir`, in one step.
    ///
    /// # Errors
    /// `Io`.
    pub fn write(&self, vfs: &dyn Vfs, dir: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).expect("plain values");
        replace_file(vfs, &dir.join(FILE), |beside| {
            let mut file = vfs.create(beside)?;
            file.write_all(&seal_json(&json))?;
            file.sync()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::MemoryVfs;

    #[test]
    fn it_reads_back_and_damage_is_noticed() {
        let (vfs, dir) = (MemoryVfs::default(), Path::new("/state"));
        vfs.create_dir_all(dir).unwrap();
        assert_eq!(Registry::read(&vfs, dir).unwrap(), None);
        let version = |name: &str| VersionRef { path: name.into(), id: "00".into() };
        let split = Some(SplitRef { version: version("c"), share: 0.25 });
        let mut registry = Registry::new(version("a"), Some(version("b")), split);
        registry.write(&vfs, dir).unwrap();
        assert_eq!(Registry::read(&vfs, dir).unwrap(), Some(registry.clone()));
        registry.rolled_back = true;
        registry.write(&vfs, dir).unwrap();
        assert_eq!(Registry::read(&vfs, dir).unwrap(), Some(registry.clone()));
        let sealed = seal_json(&serde_json::to_string_pretty(&registry).unwrap());
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            vfs.create(&dir.join(FILE)).unwrap().write_all(&bad).unwrap();
            assert!(Registry::read(&vfs, dir).is_err(), "byte {at}");
        }
    }
}
