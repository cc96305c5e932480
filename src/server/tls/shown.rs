//! What a certificate that a caller has shown says, as a value. It was verified before.

use rustls::pki_types::CertificateDer;
use sha2::Digest;
use sha2::Sha256;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::layers::Certificate;

/// None: it cannot be read, so that its holder is nobody.
pub(in crate::server) fn shown(der: &CertificateDer<'_>) -> Option<Certificate> {
    let (_, read) = X509Certificate::from_der(der).ok()?;
    let fingerprint = Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
    let common_name = read.subject().iter_common_name().find_map(|it| it.as_str().ok());
    let mut shown =
        Certificate { common_name: common_name.map(str::to_owned), fingerprint, ..Certificate::default() };
    // Twice the extension: which of both would count?
    let names = read.subject_alternative_name().ok()?;
    for name in names.iter().flat_map(|it| &it.value.general_names) {
        match name {
            GeneralName::URI(uri) => shown.uris.push((*uri).to_owned()),
            GeneralName::DNSName(name) => shown.dns_names.push((*name).to_owned()),
            GeneralName::RFC822Name(address) => shown.emails.push((*address).to_owned()),
            _ => {}
        }
    }
    Some(shown)
}

#[cfg(test)]
mod tests {
    use rcgen::CertificateParams;
    use rcgen::DnType;
    use rcgen::KeyPair;
    use rcgen::SanType;
    use rustls::pki_types::CertificateDer;

    use super::shown;

    #[test]
    fn all_names_of_a_certificate_are_told_by_their_kind() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "trainer-7");
        params.subject_alt_names = vec![
            SanType::URI("spiffe://vision/trainer".try_into().unwrap()),
            SanType::DnsName("trainer.example".try_into().unwrap()),
            SanType::Rfc822Name("ops@example.org".try_into().unwrap()),
            SanType::IpAddress([127, 0, 0, 1].into()),
        ];
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let shown = shown(made.der()).unwrap();
        assert_eq!(shown.uris, ["spiffe://vision/trainer"]);
        assert_eq!(shown.dns_names, ["trainer.example"]);
        assert_eq!(shown.emails, ["ops@example.org"]);
        assert_eq!(shown.common_name.as_deref(), Some("trainer-7"));
        assert_eq!(shown.fingerprint.len(), 64);
    }

    #[test]
    fn what_is_no_certificate_is_nobodys() {
        assert_eq!(shown(&CertificateDer::from(b"none".to_vec())), None);
    }
}
