//! A client of a few lines over one keep-alive connection: a full-blown one would take a good part
//! of the two cores that are measured.

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

pub struct Http {
    stream: TcpStream,
    host: String,
    token: String,
    buffer: Vec<u8>,
}

impl Http {
    pub async fn connect(url: &str, token: &str) -> Result<Self> {
        let host = url.trim_start_matches("http://").to_owned();
        let stream = TcpStream::connect(&host).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, host, token: token.to_owned(), buffer: Vec::with_capacity(1 << 16) })
    }

    /// Posts JSON and returns the body of a 2xx answer.
    pub async fn post(&mut self, path: &str, body: &str, more: &str) -> Result<Vec<u8>> {
        self.send("POST", path, body, more).await
    }

    /// Sends a request and returns the body of a 2xx answer.
    pub async fn send(&mut self, method: &str, path: &str, body: &str, more: &str) -> Result<Vec<u8>> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n{more}Content-Length: {}\r\n\r\n{body}",
            self.host,
            self.token,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        let end = loop {
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the connection was closed");
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).to_lowercase();
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .context("no content-length")?
            .trim()
            .parse()?;
        while self.buffer.len() < end + length {
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the connection was closed");
        }
        let body = self.buffer[end..end + length].to_vec();
        ensure!(
            head.starts_with("http/1.1 2"),
            "{} {}",
            head.lines().next().unwrap_or_default(),
            String::from_utf8_lossy(&body)
        );
        Ok(body)
    }
}
