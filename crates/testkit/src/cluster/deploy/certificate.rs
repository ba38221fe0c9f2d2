//! A certificate authority, a certificate for each host and one for clients, made with `openssl`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Days that the certificates are valid.
const DAYS: &str = "2";

/// An authority and what it has signed, as PEM files in a folder.
#[derive(Debug)]
pub(super) struct Authority {
    folder: PathBuf,
}

impl Authority {
    /// Makes an authority, certificates for the hosts 10.4.7.N, and one for clients.
    pub(super) fn new(folder: &Path, numbers: &[u8]) -> Result<Self> {
        std::fs::create_dir_all(folder).context("make the folder of the certificates")?;
        let authority = Self { folder: folder.to_owned() };
        openssl(
            authority
                .new_key("ca")
                .args(["-x509", "-days", DAYS, "-subj", "/CN=etcd-ca"])
                .args([
                    "-addext",
                    "basicConstraints=critical,CA:TRUE",
                    "-addext",
                    "keyUsage=critical,keyCertSign,cRLSign",
                    "-out",
                ])
                .arg(authority.file("ca.pem")),
        )?;
        for number in numbers {
            // A peer is server and client of the other peers.
            authority.sign(
                &number.to_string(),
                &format!("subjectAltName=IP:10.4.7.{number},IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n"),
            )?;
        }
        authority.sign("client", "extendedKeyUsage=clientAuth\n")?;
        Ok(authority)
    }

    /// The authority's own certificate.
    pub(super) fn certificate(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// What etcdctl is given.
    pub(super) fn client_flags(&self) -> Vec<String> {
        let file = |name: &str| self.file(name).display().to_string();
        vec![
            format!("--cacert={}", file("ca.pem")),
            format!("--cert={}", file("client.pem")),
            format!("--key={}", file("client-key.pem")),
        ]
    }

    /// What the member on host 10.4.7.N is given.
    pub(super) fn server_flags(&self, number: u8) -> Vec<String> {
        let file = |name: String| self.file(&name).display().to_string();
        let (certificate, key) = (file(format!("{number}.pem")), file(format!("{number}-key.pem")));
        let ca = file("ca.pem".to_owned());
        let mut flags = Vec::new();
        for prefix in ["--", "--peer-"] {
            flags.push(format!("{prefix}cert-file={certificate}"));
            flags.push(format!("{prefix}key-file={key}"));
            flags.push(format!("{prefix}trusted-ca-file={ca}"));
            flags.push(format!("{prefix}client-cert-auth"));
        }
        flags
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Begins `openssl req` with a new key.
    fn new_key(&self, name: &str) -> Command {
        let mut command = Command::new("openssl");
        command
            .args(["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .arg("-keyout")
            .arg(self.file(&format!("{name}-key.pem")));
        command
    }

    fn sign(&self, name: &str, extensions: &str) -> Result<()> {
        let request = self.file(&format!("{name}.csr"));
        let subject = format!("/CN=etcd-{name}");
        openssl(self.new_key(name).args(["-subj", &subject, "-out"]).arg(&request))?;
        let extension_file = self.file(&format!("{name}.ext"));
        std::fs::write(&extension_file, extensions).context("write the extensions")?;
        let mut command = Command::new("openssl");
        command.args(["x509", "-req", "-days", DAYS, "-CAcreateserial", "-in"]).arg(&request);
        command.arg("-CA").arg(self.certificate()).arg("-CAkey").arg(self.file("ca-key.pem"));
        command.arg("-extfile").arg(&extension_file);
        openssl(command.arg("-out").arg(self.file(&format!("{name}.pem"))))
    }
}

fn openssl(command: &mut Command) -> Result<()> {
    let output = command.output().context("run openssl")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", text.trim());
    Ok(())
}
