//! The client before a server that answers as it is told.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::*;

/// Answers each connection's one request with the next of its answers, and remembers the requests.
pub(crate) struct Canned {
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
    folder: tempfile::TempDir,
}

impl Canned {
    pub(crate) fn new(answers: Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("admin.sock")).unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = read_request(&mut stream).await;
                seen.lock().unwrap().push(request);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self { requests, folder }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(Target::Unix(self.folder.path().join("admin.sock")))
    }
}

async fn read_request(stream: &mut UnixStream) -> String {
    let mut request = Vec::new();
    loop {
        stream.read_buf(&mut request).await.unwrap();
        let text = String::from_utf8(request.clone()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        if body.len() >= length.parse::<usize>().unwrap() {
            return text;
        }
    }
}

/// A problem as an answer.
pub(crate) fn problem(kind: AdminErrorKind, message: &str) -> String {
    let problem = Problem::from(AdminError::new(kind, message).hint("try again"));
    let body = serde_json::to_string(&problem).unwrap();
    format!("HTTP/1.1 {} X\r\ncontent-length: {}\r\n\r\n{body}", problem.status, body.len())
}

fn chunked(chunks: &[&str]) -> String {
    let mut answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    for chunk in chunks {
        answer.push_str(&format!("{:x}\r\n{chunk}\r\n", chunk.len()));
    }
    answer + "0\r\n\r\n"
}

#[tokio::test]
async fn a_problem_keeps_its_kind_and_its_hint() {
    let canned = Canned::new(vec![problem(AdminErrorKind::NotFound, "there is no app `x`")]);
    let edit = littoral_model::edit::Edit::first(1, "ann".to_owned());
    let end = littoral_node::admin::types::AppEnd { edit, signature: None };
    let error = canned.client().delete("x", &end).await.unwrap_err();
    let expected = AdminError::not_found("there is no app `x`").hint("try again");
    assert_eq!(error.downcast_ref::<AdminError>(), Some(&expected));
    assert!(canned.requests.lock().unwrap().concat().starts_with("DELETE /v1/apps/x HTTP/1.1\r\n"));
}

#[tokio::test]
async fn nobody_there_says_what_to_do() {
    let client = Client::new(Target::Unix(PathBuf::from("/nonexistent/admin.sock")));
    let error = client.nodes().await.unwrap_err();
    assert!(error.to_string().contains("littoral dev"), "{error}");
}

#[tokio::test]
async fn lines_come_whole_however_they_are_cut() {
    let canned = Canned::new(vec![chunked(&["{\"a\"", ":1}\n{\"b\":2}", "\n"])]);
    let mut lines = canned.client().tail("my-app", "readings", "?from=start").await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap(), "{\"a\":1}");
    assert_eq!(lines.next().await.unwrap().unwrap(), "{\"b\":2}");
    assert_eq!(lines.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_last_line_may_be_an_error() {
    let error = serde_json::to_string(&Problem::from(AdminError::unavailable("the owner is gone"))).unwrap();
    let canned = Canned::new(vec![chunked(&["1\n", &format!("{{\"_error\":{error}}}\n")]), chunked(&["1\n{"])]);
    let mut lines = canned.client().logs("").await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap(), "1");
    assert_eq!(lines.next().await.unwrap_err().to_string(), "the owner is gone");
    let mut lines = canned.client().logs("").await.unwrap();
    lines.next().await.unwrap();
    assert!(lines.next().await.unwrap_err().to_string().contains("within a line"));
}
