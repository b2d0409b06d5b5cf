//! As much of the NATS protocol as a request over TLS needs: <https://docs.nats.io/reference/reference-protocols/nats-protocol>.
//! With nothing around it, so that the server is what is measured.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const SUBJECT: &str = "bench.echo";
const INBOX: &str = "_INBOX.bench";

/// A connection to a server.
pub(crate) struct Client(BufReader<TlsStream<TcpStream>>);

/// A message that arrived.
struct Message {
    reply: Option<String>,
    payload: Vec<u8>,
}

impl Client {
    /// Connects with the certificate in a folder; the server's must be of the same root.
    pub(crate) async fn connect(address: &str, identity: &Path) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(identity.join("root.crt"))?)?;
        let chain = CertificateDer::pem_file_iter(identity.join("node.crt"))?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(identity.join("node.key"))?;
        let tls = ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key)?;
        let mut stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        // The server says first what it is, in the clear: one line, which is not needed here.
        while stream.read_u8().await? != b'\n' {}
        let name = ServerName::try_from("127.0.0.1")?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
        let mut client = Self(BufReader::new(stream));
        client.send(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"tls_required\":true,\"lang\":\"rust\",\"version\":\"0\"}\r\nPING\r\n").await?;
        let line = client.line().await?;
        anyhow::ensure!(line == "PONG", "nats-server refused the connection: {line}");
        Ok(client)
    }

    /// Answers requests with their own payload until the server goes away.
    pub(crate) async fn echo(mut self) -> anyhow::Result<()> {
        self.send(format!("SUB {SUBJECT} 1\r\n").as_bytes()).await?;
        loop {
            let message = self.message().await?;
            if let Some(reply) = message.reply {
                self.publish(&reply, None, &message.payload).await?;
            }
        }
    }

    /// Prepares for requests.
    pub(crate) async fn listen(&mut self) -> anyhow::Result<()> {
        self.send(format!("SUB {INBOX} 1\r\n").as_bytes()).await
    }

    /// One request; the answer must be as long.
    pub(crate) async fn request(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        self.publish(SUBJECT, Some(INBOX), payload).await?;
        let answer = self.message().await?;
        anyhow::ensure!(answer.payload.len() == payload.len(), "{} bytes came back", answer.payload.len());
        Ok(())
    }

    async fn publish(&mut self, subject: &str, reply: Option<&str>, payload: &[u8]) -> anyhow::Result<()> {
        let reply = reply.map(|reply| format!("{reply} ")).unwrap_or_default();
        let mut bytes = format!("PUB {subject} {reply}{}\r\n", payload.len()).into_bytes();
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
        self.send(&bytes).await
    }

    async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.0.write_all(bytes).await?;
        Ok(self.0.flush().await?)
    }

    async fn message(&mut self) -> anyhow::Result<Message> {
        loop {
            let line = self.line().await?;
            let words: Vec<&str> = line.split(' ').collect();
            let (reply, bytes) = match words.as_slice() {
                ["MSG", _, _, bytes] => (None, bytes.parse::<usize>()?),
                ["MSG", _, _, reply, bytes] => (Some((*reply).to_owned()), bytes.parse()?),
                ["PING"] => {
                    self.send(b"PONG\r\n").await?;
                    continue;
                }
                ["INFO", ..] => continue,
                _ => bail!("nats-server said {line}"),
            };
            // The payload ends with a line break of its own.
            let mut payload = vec![0; bytes + 2];
            self.0.read_exact(&mut payload).await?;
            payload.truncate(bytes);
            return Ok(Message { reply, payload });
        }
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        anyhow::ensure!(self.0.read_line(&mut line).await? > 0, "nats-server closed the connection");
        Ok(line.trim_end().to_owned())
    }
}
