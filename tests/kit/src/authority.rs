//! A certificate authority of the test's own, and what it signs. Valid for a day on both sides of now.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rcgen::{KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority whose certificates lie in a folder as PEM files.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// Where a certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub cert: PathBuf,
    /// Its private key, PKCS#8.
    pub key: PathBuf,
}

// === impl Authority ===

impl Authority {
    /// Makes a new one; its certificate is `ca.pem` in the folder.
    ///
    /// # Panics
    /// When the folder cannot be written.
    pub fn new(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap_or_else(|e| panic!("cannot create {}: {e}", folder.display()));
        let mut params = params("Test authority", Vec::new());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        write(&folder.join("ca.pem"), &certificate.pem());
        Self { folder: folder.to_owned(), issuer: Issuer::new(params, key) }
    }

    /// Its certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Signs a new certificate for servers and clients, `NAME.pem` with `NAME.key`, which replace earlier ones of that
    /// name. Subject alternative names are DNS names and IP addresses.
    ///
    /// # Panics
    /// When a name is neither, or the files cannot be written.
    pub fn issue(&self, name: &str, alternative_names: &[&str]) -> Pair {
        let mut params = params(name, alternative_names.iter().map(|&n| n.to_owned()).collect());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let pair = Pair { cert: self.folder.join(format!("{name}.pem")), key: self.folder.join(format!("{name}.key")) };
        write(&pair.cert, &certificate.pem());
        write(&pair.key, &key.serialize_pem());
        pair
    }
}

/// A new RSA key for signing tokens: the files of its private and of its public half.
///
/// # Panics
/// When the files cannot be written.
pub fn signing_key(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key");
    let (private, public) = (folder.join(format!("{name}.key")), folder.join(format!("{name}.pub")));
    write(&private, &key.serialize_pem());
    write(&public, &key.public_key_pem());
    (private, public)
}

fn params(name: &str, alternative_names: Vec<String>) -> CertificateParams {
    let mut params = CertificateParams::new(alternative_names).expect("alternative names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = (SystemTime::now() - DAY).into();
    params.not_after = (SystemTime::now() + DAY).into();
    params
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
}
