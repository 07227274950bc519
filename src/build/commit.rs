//! From a finished folder to the current version, in one rename.
//!
//! A build works in `.build/` of the index directory: finished files in `.build/files`, temporary ones in
//! `.build/spill`. To commit, the files' folder is renamed to `v-<id>`, the directory synced, the manifest written beside
//! under a temporary name, synced, renamed over the old one, the directory synced again. Folders that no manifest names
//! are removed afterwards, or by the next build. A build that fails removes its own work folder at once.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::hex;
use crate::index::{MANIFEST, Manifest};
use crate::vfs::{LOCK, Vfs, create_dir_durably, lock_dir};

const WORK: &str = ".build";
/// As [`crate::vfs::replace_file`] names what it writes.
const NEW_MANIFEST: &str = "manifest.json.writing";

/// A version in the making.
pub(crate) struct Commit<'v> {
    vfs: &'v dyn Vfs,
    dir: PathBuf,
    files: PathBuf,
    spill: PathBuf,
    done: bool,
    /// Held while the build runs; simulated file systems have none.
    _lock: Option<File>,
}

impl<'v> Commit<'v> {
    /// Prepares the directory, removing what a killed build left.
    ///
    /// # Errors
    /// `InvalidParams` if the directory holds other things than an index, or another build is at work in it.
    pub(crate) fn begin(vfs: &'v dyn Vfs, dir: &Path) -> Result<Commit<'v>> {
        create_dir_durably(vfs, dir)?;
        let lock = lock_dir(vfs, dir, "output", "another build is at work in")?;
        check_ours(vfs, dir)?;
        remove_stale(vfs, dir)?;
        let (files, spill) = (dir.join(WORK).join("files"), dir.join(WORK).join("spill"));
        vfs.create_dir_all(&files)?;
        vfs.create_dir_all(&spill)?;
        Ok(Commit { vfs, dir: dir.to_path_buf(), files, spill, done: false, _lock: lock })
    }

    /// Folder for the files of the version.
    pub(crate) fn folder(&self) -> &Path {
        &self.files
    }

    /// Folder for temporary files.
    pub(crate) fn temporary(&self) -> &Path {
        &self.spill
    }

    /// The name that the folder will have: `v-` and eight digits of the id; with a number where the same index is built
    /// over itself.
    pub(crate) fn folder_name(&self, index_id: &[u8; 16]) -> Result<String> {
        let base = format!("v-{}", hex(&index_id[..4]));
        let mut name = base.clone();
        let mut number = 2;
        while self.vfs.exists(&self.dir.join(&name))? {
            name = format!("{base}-{number}");
            number += 1;
        }
        Ok(name)
    }

    /// Makes the folder the current version.
    pub(crate) fn finish(mut self, manifest: &Manifest) -> Result<()> {
        let Commit { vfs, dir, files, .. } = &self;
        vfs.sync_dir(files)?;
        vfs.rename(files, &dir.join(&manifest.folder))?;
        vfs.sync_dir(dir)?;
        manifest.write(*vfs, dir)?;
        // The version stands; what cannot be removed now will be by the next build.
        let _ = remove_stale(*vfs, dir);
        self.done = true;
        Ok(())
    }
}

impl Drop for Commit<'_> {
    fn drop(&mut self) {
        if !self.done {
            // Whatever stopped the build is the error to tell; what cannot be removed now will be by the next build.
            let _ = remove_work(self.vfs, &self.dir);
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A folder that a build makes: `v-`, eight hexadecimal digits, perhaps a number.
fn is_version(name: &str) -> bool {
    let Some((digits, rest)) = name.strip_prefix("v-").and_then(|n| n.split_at_checked(8)) else { return false };
    digits.bytes().all(|b| b.is_ascii_hexdigit())
        && (rest.is_empty() || rest.strip_prefix('-').is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())))
}

/// Refuses a directory with things in it that no build put there.
fn check_ours(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    let known = [WORK, NEW_MANIFEST, LOCK, MANIFEST];
    let foreign = vfs.list(dir)?.iter().map(|p| name_of(p)).find(|n| !known.contains(&n.as_str()) && !is_version(n));
    match foreign {
        Some(name) => Err(Error::params(
            "output",
            format!("{} holds {name:?}, which is no part of an index; choose an empty directory", dir.display()),
        )),
        None => Ok(()),
    }
}

/// Removes what no manifest names.
fn remove_stale(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    let current = match vfs.exists(&dir.join(MANIFEST))? {
        // A damaged manifest must not cost the files that it named.
        true => match Manifest::read(vfs, dir) {
            Ok(manifest) => Some(manifest.folder),
            Err(_) => return remove_work(vfs, dir),
        },
        false => None,
    };
    for path in vfs.list(dir)? {
        let name = name_of(&path);
        if is_version(&name) && Some(&name) != current.as_ref() {
            vfs.remove_dir_all(&path)?;
        }
    }
    remove_work(vfs, dir)
}

fn remove_work(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    if vfs.exists(&dir.join(NEW_MANIFEST))? {
        vfs.remove_file(&dir.join(NEW_MANIFEST))?;
    }
    if vfs.exists(&dir.join(WORK))? {
        vfs.remove_dir_all(&dir.join(WORK))?;
    }
    Ok(())
}
