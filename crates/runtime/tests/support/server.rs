//! The program of a process for tests: an HTTP server that tries what it is asked to and says what came of it.
#![allow(unreachable_pub, unsafe_code)]

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Serves on `$PORT` until it is ended.
pub fn serve(greeting: &str) {
    let port: u16 = std::env::var("PORT").unwrap().parse().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    println!("it listens");
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        let greeting = greeting.to_owned();
        std::thread::spawn(move || answer(stream, &greeting));
    }
}

fn answer(mut stream: TcpStream, greeting: &str) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        let mut header = String::new();
        while reader.read_line(&mut header).unwrap_or(0) > 0 && !header.trim().is_empty() {
            header.clear();
        }
        let path = request.split(' ').nth(1).unwrap_or("/");
        let body = done(path, greeting);
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    }
}

fn done(path: &str, greeting: &str) -> String {
    let (what, rest) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
    let file = format!("/{rest}");
    match what {
        "variables" => std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect(),
        "read" => said(read(Path::new(&file))),
        "read-text" => fs::read_to_string(&file).unwrap(),
        "write" => said(
            fs::OpenOptions::new().write(true).create(true).truncate(true).open(&file).map(|_| "written".to_owned()),
        ),
        "connect" => said(
            TcpStream::connect_timeout(&rest.parse().unwrap(), Duration::from_secs(5)).map(|_| "connected".to_owned()),
        ),
        "get" => {
            said(ask_proxy(&format!("GET http://{rest}/path HTTP/1.1\r\nHost: nobody\r\nConnection: close\r\n\r\n")))
        }
        "tunnel" => said(ask_proxy(&format!(
            "CONNECT {rest} HTTP/1.1\r\nHost: nobody\r\n\r\nGET /path HTTP/1.1\r\nHost: within\r\n\r\n"
        ))),
        "connect-unix" => said(UnixStream::connect(&file).map(|_| "connected".to_owned())),
        "processes" => fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter(|it| it.file_name().to_str().unwrap().parse::<u32>().is_ok())
            .count()
            .to_string(),
        "interfaces" => {
            let table = fs::read_to_string("/proc/net/dev").unwrap();
            let names: Vec<&str> = table.lines().skip(2).map(|line| line.split(':').next().unwrap().trim()).collect();
            names.join(" ")
        }
        "call" => call(rest),
        "fork" => fork().to_string(),
        "fill" => fill().to_string(),
        "burn" => {
            let used = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            let until = Duration::from_millis(rest.parse().unwrap());
            while Duration::try_from(used()).unwrap() < until {
                std::hint::spin_loop();
            }
            "burnt".to_owned()
        }
        "spin" => {
            std::thread::spawn(|| {
                loop {
                    std::hint::spin_loop();
                }
            });
            "it spins".to_owned()
        }
        "allocate" => {
            let mut held: Vec<Vec<u8>> = Vec::new();
            loop {
                held.push(vec![1; 1 << 20]);
            }
        }
        "exit" => {
            println!("it exits");
            std::process::exit(rest.parse().unwrap())
        }
        "abort" => std::process::abort(),
        _ => {
            let name = rustix::system::uname().nodename().to_str().unwrap().to_owned();
            format!("{greeting} from {name}, user {}", rustix::process::getuid().as_raw() / 1_000_000)
        }
    }
}

/// All that the proxy answers to a request.
fn ask_proxy(request: &str) -> io::Result<String> {
    let proxy = std::env::var("HTTPS_PROXY").map_err(|_| io::Error::from(io::ErrorKind::Unsupported))?;
    let mut stream = TcpStream::connect(proxy.trim_start_matches("http://"))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    // A refusal leaves the connection open for the next request.
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut buffer = [0; 4096];
    while !answer.contains("was denied") && !answer.contains("GET /path") {
        match io::Read::read(&mut stream, &mut buffer)? {
            0 => break,
            read => answer.push_str(&String::from_utf8_lossy(&buffer[..read])),
        }
    }
    Ok(answer)
}

fn said(outcome: io::Result<String>) -> String {
    outcome.unwrap_or_else(|error| format!("{:?}", error.kind()))
}

fn read(path: &Path) -> io::Result<String> {
    if path.is_dir() {
        return Ok(format!("{} entries", fs::read_dir(path)?.count()));
    }
    let mut byte = [0];
    io::Read::read(&mut fs::File::open(path)?, &mut byte).map(|read| format!("{read} bytes"))
}

/// What the kernel says to a call that only administrators may make.
fn call(name: &str) -> String {
    // SAFETY: none of them is given memory, and all are refused.
    let status = unsafe {
        match name {
            "unshare" => libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER),
            "mount" => libc::syscall(libc::SYS_mount, 0, 0, 0, 0, 0),
            "bpf" => libc::syscall(libc::SYS_bpf, 0, 0, 0),
            _ => libc::syscall(libc::SYS_socket, libc::AF_PACKET, libc::SOCK_RAW, 0),
        }
    };
    if status >= 0 {
        "done".to_owned()
    } else {
        io::Error::last_os_error().to_string().split(" (").next().unwrap().to_owned()
    }
}

/// Starts processes until it may not; how many.
fn fork() -> usize {
    let mut begun = Vec::new();
    while begun.len() < 1_000
        && let Ok(child) = Command::new("sleep").arg("1000").spawn()
    {
        begun.push(child);
    }
    for child in &mut begun {
        let _ = child.kill();
        let _ = child.wait();
    }
    begun.len()
}

/// Writes files in memory until it may not; how many bytes.
fn fill() -> usize {
    let mut written = 0;
    let mut file = fs::File::create("/tmp/fill").unwrap();
    while written < 1 << 30 && file.write_all(&[1; 1 << 16]).is_ok() {
        written += 1 << 16;
    }
    fs::remove_file("/tmp/fill").unwrap();
    written
}
