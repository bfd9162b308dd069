//! Tokens and certificates in files, which others replace while the process runs.

use std::io::Read as _;
use std::path::Path;

use http::HeaderValue;

use crate::client::TlsFiles;
use crate::error::ClientError;

/// More is no token.
const TOKEN_BYTES: u64 = 64 << 10;
/// More is no bundle of certificates.
const PEM_BYTES: u64 = 16 << 20;

/// The contents of the files that a client's TLS is made of.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct TlsContents {
    pub(crate) ca: Option<Vec<u8>>,
    /// The certificate, then its key.
    pub(crate) identity: Option<Vec<u8>>,
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err("is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > limit {
        return Err(format!("is larger than {limit} bytes"));
    }
    Ok(bytes)
}

/// Reads a token as a header's value, which `Debug` does not show.
pub(crate) fn token(path: &Path) -> Result<HeaderValue, ClientError> {
    let wrong = |problem: String| ClientError::Token { path: path.display().to_string(), problem };
    let bytes = read(path, TOKEN_BYTES).map_err(wrong)?;
    let text = bytes.trim_ascii();
    if text.is_empty() {
        return Err(wrong("is empty".to_owned()));
    }
    if !text.iter().all(u8::is_ascii_graphic) {
        return Err(wrong("holds something else than one token".to_owned()));
    }
    let mut value =
        HeaderValue::from_bytes(text).map_err(|_| wrong("holds something else than one token".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

// === impl TlsContents ===

impl TlsContents {
    pub(crate) fn read(files: &TlsFiles) -> Result<Self, ClientError> {
        let one = |path: &Path| {
            read(path, PEM_BYTES)
                .map_err(|problem| ClientError::Settings { problem: format!("{} {problem}", path.display()) })
        };
        let ca = files.ca.as_deref().map(one).transpose()?;
        let identity = match (&files.cert, &files.key) {
            (None, None) => None,
            (Some(cert), Some(key)) => {
                let mut bytes = one(cert)?;
                bytes.push(b'\n');
                bytes.extend(one(key)?);
                Some(bytes)
            }
            _ => {
                let problem = "a client certificate and its key are set together: certFile and keyFile".to_owned();
                return Err(ClientError::Settings { problem });
            }
        };
        Ok(Self { ca, identity })
    }
}
