//! The one envelope of every file of an index. Its bytes are drawn here and nowhere else.
//!
//! ```text
//! offset
//!      0  magic           93 42 49 47 52 41 49 4e 0d 0a 1a 0a     \x93 BIGRAIN CR LF ^Z LF
//!     12  version  u32    1
//!     16  kind     u32    what the file is: see Kind
//!     20  sections u32    how many, at most 120
//!     24  index id        16 bytes, equal in all files of an index version
//!     40  length   u64    of the whole file
//!     48  table           32 bytes a section: tag (4 ASCII), crc32c u32, offset u64, length u64, zeros (8)
//!         zeros
//!   4092  crc32c   u32    of bytes 0..4092
//!   4096  sections, each starting on a multiple of 4096, zeros between them and up to the end of the file
//! ```
//! All integers and floats are little-endian. The first byte is not ASCII, and the line ends in the magic break under
//! any text conversion. The checksum of a section covers its bytes; the zeros between sections are checked to be zero.
//!
//! [`FileReader::open`] reads the first 4 KiB only, and checks everything in them against the file's length. Sections
//! are verified when they are read whole; what is read piece by piece (dense records, key pages) carries checksums of
//! its own.

use bytemuck::Pod;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::vfs::{ReadFile, Vfs, WriteFile};

#[cfg(target_endian = "big")]
compile_error!("index files are little-endian and read in place; big-endian machines are not supported");

/// Sections start on multiples of this, which is also the unit of reads from the device.
pub const PAGE: u64 = 4096;

const MAGIC: [u8; 12] = *b"\x93BIGRAIN\r\n\x1a\n";
const VERSION: u32 = 1;
const TABLE: usize = 48;
const ENTRY: usize = 32;
/// Their table fits the header.
const MAX_SECTIONS: usize = 120;
const HEADER_CRC: usize = PAGE as usize - 4;
/// Bytes gathered before they are written.
const BUFFER: usize = 1 << 20;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Centroids, rotation, codebooks, heads, router.
    Quantizer,
    /// Inverted lists.
    Codes,
    /// A dense shard.
    Dense,
    /// Keys to rows.
    Keys,
    /// What is returned with hits.
    Fields,
    /// The state of a training run.
    Checkpoint,
    /// What advertisers, campaigns, ad groups and ads say of themselves.
    Control,
    /// Attributes, column by column.
    Attributes,
}

impl Kind {
    const ALL: [Kind; 8] = [
        Kind::Quantizer,
        Kind::Codes,
        Kind::Dense,
        Kind::Keys,
        Kind::Fields,
        Kind::Checkpoint,
        Kind::Control,
        Kind::Attributes,
    ];

    fn number(self) -> u32 {
        self as u32 + 1
    }
}

/// A file as the manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// File name, without a directory.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its length.
    pub bytes: u64,
    /// Checksum of its header, which holds the checksums of its sections.
    pub header_crc: u32,
}

/// Where a section lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    tag: [u8; 4],
    crc: u32,
    /// First byte in the file; a multiple of [`PAGE`].
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// The bytes of values, little-endian.
pub fn as_bytes<T: Pod>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
}

/// Values from little-endian bytes at any alignment; trailing bytes that make no value are left out.
pub fn from_bytes<T: Pod>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

/// Writes one file: sections one after the other, then the header, then a sync.
pub struct FileWriter {
    path: PathBuf,
    file: Box<dyn WriteFile>,
    kind: Kind,
    index_id: [u8; 16],
    sections: Vec<Section>,
    open: bool,
    buffer: Vec<u8>,
    length: u64,
}

impl FileWriter {
    /// Creates `path`; its header is written by [`FileWriter::finish`], so an unfinished file is recognised as none.
    pub fn create(vfs: &dyn Vfs, path: &Path, kind: Kind, index_id: [u8; 16]) -> Result<FileWriter> {
        let mut writer = FileWriter {
            path: path.to_path_buf(),
            file: vfs.create(path)?,
            kind,
            index_id,
            sections: Vec::new(),
            open: false,
            buffer: Vec::with_capacity(BUFFER),
            length: 0,
        };
        writer.append(&[0; PAGE as usize])?;
        Ok(writer)
    }

    /// Starts a section.
    pub fn begin(&mut self, tag: [u8; 4]) -> Result<()> {
        assert!(!self.open && self.sections.len() < MAX_SECTIONS, "sections follow one another");
        self.pad()?;
        self.sections.push(Section { tag, crc: 0, offset: self.length, length: 0 });
        self.open = true;
        Ok(())
    }

    /// Appends to the open section.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        assert!(self.open, "a section is open");
        let section = self.sections.last_mut().expect("a section is open");
        section.crc = crc32c::crc32c_append(section.crc, bytes);
        section.length += bytes.len() as u64;
        self.append(bytes)
    }

    /// Ends the open section.
    pub fn end(&mut self) -> Result<()> {
        assert!(self.open, "a section is open");
        self.open = false;
        Ok(())
    }

    /// A whole section of values.
    pub fn write_array<T: Pod>(&mut self, tag: [u8; 4], values: &[T]) -> Result<()> {
        self.begin(tag)?;
        self.write(as_bytes(values))?;
        self.end()
    }

    /// Writes the header and makes the file's content durable.
    pub fn finish(mut self) -> Result<FileEntry> {
        assert!(!self.open, "the last section has ended");
        self.pad()?;
        self.flush()?;
        let header = self.header();
        self.file.write_all_at(0, &header)?;
        self.file.sync()?;
        let name = self.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let header_crc = u32::from_le_bytes(header[HEADER_CRC..].try_into().expect("4 bytes"));
        Ok(FileEntry { name, kind: self.kind, bytes: self.length, header_crc })
    }

    fn header(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(PAGE as usize);
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend(self.kind.number().to_le_bytes());
        header.extend((self.sections.len() as u32).to_le_bytes());
        header.extend(self.index_id);
        header.extend(self.length.to_le_bytes());
        for section in &self.sections {
            header.extend(section.tag);
            header.extend(section.crc.to_le_bytes());
            header.extend(section.offset.to_le_bytes());
            header.extend(section.length.to_le_bytes());
            header.extend([0; 8]);
        }
        header.resize(HEADER_CRC, 0);
        header.extend(crc32c::crc32c(&header).to_le_bytes());
        header
    }

    fn pad(&mut self) -> Result<()> {
        let missing = self.length.next_multiple_of(PAGE) - self.length;
        self.append(&[0; PAGE as usize][..missing as usize])
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.length += bytes.len() as u64;
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= BUFFER {
            return self.file.write_all(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

/// An open file whose header has been checked.
pub struct FileReader {
    path: PathBuf,
    file: Box<dyn ReadFile>,
    sections: Vec<Section>,
    header_crc: u32,
}

impl std::fmt::Debug for FileReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileReader").field("path", &self.path).field("sections", &self.sections).finish()
    }
}

impl FileReader {
    /// Opens `path` and checks its header: it must be a file of `kind`, and of the index `index_id` if one is given.
    ///
    /// # Errors
    /// `Unsupported` for a newer version or an unknown kind, `Mismatch` for a file of another index, `Corrupt` for
    /// anything else that is wrong.
    pub fn open(vfs: &dyn Vfs, path: &Path, kind: Kind, index_id: Option<&[u8; 16]>) -> Result<FileReader> {
        let file = vfs.open(path)?;
        let wrong = |reason: String| Error::corrupt(path, "header", reason);
        if file.len() < PAGE {
            return Err(wrong(format!("its {} bytes are too few for a header", file.len())));
        }
        let mut header = vec![0; PAGE as usize];
        file.read_exact_at(0, &mut header)?;
        if header[..MAGIC.len()] != MAGIC {
            return Err(wrong("it does not begin as a bigrain file does".into()));
        }
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let long = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        check_version(path, word(12))?;
        let header_crc = word(HEADER_CRC);
        if crc32c::crc32c(&header[..HEADER_CRC]) != header_crc {
            return Err(wrong("the checksum of the header is wrong".into()));
        }
        check_kind(path, kind, word(16))?;
        if let Some(expected) = index_id.filter(|id| id[..] != header[24..40]) {
            let what = format!("index id of {}", path.display());
            return Err(Error::mismatch(what, hex(expected), hex(&header[24..40])));
        }
        if long(40) != file.len() {
            return Err(wrong(format!("its length is {}, it was written with {}", file.len(), long(40))));
        }
        let count = word(20) as usize;
        if count > MAX_SECTIONS {
            return Err(wrong(format!("{count} sections are too many")));
        }
        let sections: Vec<Section> = (0..count)
            .map(|i| {
                let at = TABLE + i * ENTRY;
                let tag = header[at..at + 4].try_into().expect("4 bytes");
                Section { tag, crc: word(at + 4), offset: long(at + 8), length: long(at + 16) }
            })
            .collect();
        check_sections(&sections, file.len()).map_err(wrong)?;
        Ok(FileReader { path: path.to_path_buf(), file, sections, header_crc })
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file beneath, for those who map it.
    pub(crate) fn file(&self) -> &dyn ReadFile {
        &*self.file
    }

    /// The file beneath, for those who read its sections in their own way.
    pub(crate) fn into_file(self) -> Box<dyn ReadFile> {
        self.file
    }

    /// Length of the file.
    pub fn len(&self) -> u64 {
        self.file.len()
    }

    /// Never: a header is always there.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Checksum of the header.
    pub fn header_crc(&self) -> u32 {
        self.header_crc
    }

    /// The section with this tag.
    pub fn section(&self, tag: [u8; 4]) -> Result<Section> {
        let found = self.sections.iter().find(|s| s.tag == tag).copied();
        found.ok_or_else(|| Error::corrupt(&self.path, String::from_utf8_lossy(&tag), "it is not there"))
    }

    /// A whole section, its checksum verified.
    pub fn read_section(&self, tag: [u8; 4]) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.section(tag)?.length as usize];
        self.read_section_into(tag, &mut bytes)?;
        Ok(bytes)
    }

    /// A whole section of values, its checksum verified.
    pub fn read_array<T: Pod>(&self, tag: [u8; 4]) -> Result<Vec<T>> {
        let length = self.section(tag)?.length as usize;
        if !length.is_multiple_of(size_of::<T>()) {
            let reason = format!("{length} bytes are no whole number of {}-byte values", size_of::<T>());
            return Err(Error::corrupt(&self.path, String::from_utf8_lossy(&tag), reason));
        }
        let mut values = vec![T::zeroed(); length / size_of::<T>()];
        self.read_section_into(tag, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    /// A whole section into `out`, which has its length; its checksum is verified.
    pub fn read_section_into(&self, tag: [u8; 4], out: &mut [u8]) -> Result<()> {
        let section = self.section(tag)?;
        assert_eq!(section.length, out.len() as u64);
        let mut crc = 0;
        for (chunk, at) in out.chunks_mut(BUFFER).zip((section.offset..).step_by(BUFFER)) {
            self.file.read_exact_at(at, chunk)?;
            crc = crc32c::crc32c_append(crc, chunk);
        }
        self.check_crc(&section, crc)
    }

    /// Bytes `offset ..` of a section; not verified.
    pub fn read_at(&self, section: &Section, offset: u64, out: &mut [u8]) -> Result<()> {
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > section.length) {
            let reason = format!("{} bytes at {offset} lie beyond its end", out.len());
            return Err(Error::corrupt(&self.path, String::from_utf8_lossy(&section.tag), reason));
        }
        self.file.read_exact_at(section.offset + offset, out)
    }

    /// Reads every byte: checksums of all sections, zeros between them. `progress` hears of bytes done, and may stop.
    pub fn check_all(&self, progress: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        progress(PAGE)?;
        let mut buffer = vec![0; BUFFER];
        let mut end = PAGE;
        for section in &self.sections {
            self.check_zeros(end, section.offset)?;
            let mut crc = 0;
            let mut done = 0;
            while done < section.length {
                let part = &mut buffer[..(section.length - done).min(BUFFER as u64) as usize];
                self.file.read_exact_at(section.offset + done, part)?;
                crc = crc32c::crc32c_append(crc, part);
                done += part.len() as u64;
                progress(part.len() as u64)?;
            }
            self.check_crc(section, crc)?;
            end = section.offset + section.length;
        }
        self.check_zeros(end, self.file.len())
    }

    fn check_crc(&self, section: &Section, found: u32) -> Result<()> {
        if found == section.crc {
            return Ok(());
        }
        let reason = format!(
            "the checksum of its {} bytes at {} is {found:08x}, not {:08x}",
            section.length, section.offset, section.crc
        );
        Err(Error::corrupt(&self.path, String::from_utf8_lossy(&section.tag), reason))
    }

    fn check_zeros(&self, from: u64, to: u64) -> Result<()> {
        let mut bytes = vec![0; (to - from) as usize];
        self.file.read_exact_at(from, &mut bytes)?;
        match bytes.iter().position(|&b| b != 0) {
            Some(at) => Err(Error::corrupt(
                &self.path,
                "padding",
                format!("byte {} is {:02x}, not zero", from + at as u64, bytes[at]),
            )),
            None => Ok(()),
        }
    }
}

fn check_version(path: &Path, version: u32) -> Result<()> {
    match version {
        VERSION => Ok(()),
        0 => Err(Error::corrupt(path, "header", "its version is 0")),
        newer => Err(Error::Unsupported {
            what: format!("{}: file format version {newer}", path.display()),
            remedy: format!(
                "this bigrain reads version {VERSION}; use the one that wrote it, or build the index again"
            ),
        }),
    }
}

fn check_kind(path: &Path, expected: Kind, found: u32) -> Result<()> {
    match Kind::ALL.iter().find(|kind| kind.number() == found) {
        None => Err(Error::Unsupported {
            what: format!("{}: a file of kind {found}", path.display()),
            remedy: "a newer bigrain may have written it; use that one".into(),
        }),
        Some(&kind) if kind != expected => {
            let what = format!("kind of {}", path.display());
            Err(Error::mismatch(what, format!("{expected:?}"), format!("{kind:?}")))
        }
        Some(_) => Ok(()),
    }
}

/// Sections lie on pages, in order, with less than a page between them, and end with the file.
fn check_sections(sections: &[Section], length: u64) -> std::result::Result<(), String> {
    let mut end = PAGE;
    for section in sections {
        let tag = String::from_utf8_lossy(&section.tag);
        if section.offset != end.next_multiple_of(PAGE) {
            return Err(format!("section {tag} begins at {}, after {end}", section.offset));
        }
        let section_end = section.offset.checked_add(section.length).filter(|&e| e <= length);
        end = section_end.ok_or_else(|| format!("section {tag} ends beyond the file"))?;
    }
    if end.next_multiple_of(PAGE) == length { Ok(()) } else { Err(format!("sections end at {end} of {length}")) }
}

/// Hexadecimal digits of bytes.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests;
