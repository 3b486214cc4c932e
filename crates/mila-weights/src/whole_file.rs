//! Files that are written whole or not at all.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::{Error, Result};

/// Lets `content` write a file beside `path`, then renames it to `path`. An interrupted or failed write leaves what was at
/// `path` as it was, and a failed one removes its own file.
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn write_whole(path: &Path, content: impl FnOnce(&mut BufWriter<&File>) -> std::io::Result<()>) -> Result<()> {
    let problem = |source| Error::io("write", path, source);
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".mila-").suffix(".tmp");
    // A temporary file is private by default; this one becomes a file like any other, as the process's umask has it.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.tempfile_in(folder).map_err(problem)?;
    let mut buffered = BufWriter::with_capacity(1 << 20, file.as_file());
    content(&mut buffered).and_then(|()| buffered.flush()).map_err(problem)?;
    drop(buffered);
    // Without this, a crash after the rename could leave the new name with no content.
    file.as_file().sync_all().map_err(problem)?;
    file.persist(path).map_err(|error| problem(error.error))?;
    Ok(())
}
