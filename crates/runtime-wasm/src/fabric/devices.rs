//! `littoral:fabric/devices`: the node's devices that carry bytes, as serial lines do.
//!
//! A device is opened when a guest asks for it, not when the guest is loaded: it may be unplugged and come back.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::termios::{self, ControlModes, OptionalActions};
use tokio::net::unix::pipe::{Receiver, Sender};
use wasmtime::component::Resource;

use super::bindings::typed::littoral::fabric::devices::{self, Error, Line, Parity};
use crate::host::Host;

/// How much is read or written at once, in bytes.
const BYTES_MAX: usize = 64 << 10;

/// A device that a guest may open.
#[derive(Clone)]
pub struct Device {
    /// Its path, as it was granted.
    pub path: String,
    /// Opens it for reading and writing, without waiting.
    pub open: Arc<dyn Fn() -> io::Result<OwnedFd> + Send + Sync>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A device that a guest has opened.
#[allow(unreachable_pub, reason = "the generated bindings export it")]
pub struct Opened {
    path: String,
    ends: Arc<Ends>,
}

/// Both ends of a device. Whatever tells when it is ready does as a pipe does.
struct Ends {
    reader: Receiver,
    writer: Sender,
}

impl Ends {
    fn of(file: OwnedFd) -> io::Result<Self> {
        let file = File::from(file);
        Ok(Self {
            writer: Sender::from_file_unchecked(file.try_clone()?)?,
            reader: Receiver::from_file_unchecked(file)?,
        })
    }

    async fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            self.reader.readable().await?;
            match self.reader.try_read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.writer.writable().await?;
            match self.writer.try_write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

type Answer<T> = wasmtime::Result<Result<T, Error>>;

impl devices::Host for Host {}

impl devices::HostDevice for Host {
    async fn open(&mut self, path: String, serial: Option<Line>) -> Answer<Resource<Opened>> {
        let Some(device) = self.access().devices.iter().find(|device| device.path == path) else {
            // The name is quoted with its special characters escaped: it must not break out of its line.
            let text = format!("the device {path:?} was denied; grant it with `devices = [{path:?}]`");
            self.report(&text);
            return Ok(Err(Error::Denied(text)));
        };
        let ends = match (device.open)().and_then(Ends::of) {
            Ok(ends) => Arc::new(ends),
            Err(error) => {
                let text = format!("the device {path} cannot be opened: {error}");
                self.report(&text);
                return Ok(Err(Error::Failed(text)));
            }
        };
        if let Some(Err(error)) = serial.map(|line| set(&ends.reader, line)) {
            return Ok(Err(error));
        }
        Ok(Ok(self.table().push(Opened { path, ends })?))
    }

    async fn read(&mut self, device: Resource<Opened>, max: u32, within_us: u64) -> Answer<Vec<u8>> {
        let left = self.deadline().saturating_duration_since(Instant::now());
        let within = Duration::from_micros(within_us).min(left);
        let (path, ends) = self.opened(&device)?;
        let Some(max) = usize::try_from(max).ok().filter(|max| (1..=BYTES_MAX).contains(max)) else {
            return Ok(Err(Error::Invalid(format!("1 to {BYTES_MAX} bytes are read at once, not {max}"))));
        };
        let mut bytes = vec![0; max];
        Ok(match tokio::time::timeout(within, ends.read(&mut bytes)).await {
            Err(_) => Ok(Vec::new()),
            // A line that ends has hung up; nothing more comes from it.
            Ok(Ok(0)) => Err(Error::Failed(format!("the device {path} was unplugged, or its other end has closed it"))),
            Ok(Ok(count)) => {
                bytes.truncate(count);
                Ok(bytes)
            }
            Ok(Err(error)) => Err(failed(&path, &error)),
        })
    }

    async fn write(&mut self, device: Resource<Opened>, bytes: Vec<u8>) -> Answer<()> {
        let left = self.deadline().saturating_duration_since(Instant::now());
        let (path, ends) = self.opened(&device)?;
        if bytes.len() > BYTES_MAX {
            let text = format!("{} bytes are too many; {BYTES_MAX} are written at once", bytes.len());
            return Ok(Err(Error::Invalid(text)));
        }
        Ok(match tokio::time::timeout(left, ends.write(&bytes)).await {
            Err(_) => Err(Error::Failed(format!("the device {path} did not take all of the bytes in time"))),
            Ok(written) => written.map_err(|error| failed(&path, &error)),
        })
    }

    async fn drop(&mut self, device: Resource<Opened>) -> wasmtime::Result<()> {
        self.table().delete(device)?;
        Ok(())
    }
}

impl Host {
    fn opened(&mut self, device: &Resource<Opened>) -> wasmtime::Result<(String, Arc<Ends>)> {
        let Opened { path, ends } = self.table().get(device)?;
        Ok((path.clone(), Arc::clone(ends)))
    }
}

fn failed(path: &str, error: &io::Error) -> Error {
    Error::Failed(format!("the device {path} failed: {error}"))
}

/// Sets a serial line, which from then on changes no byte.
fn set(file: impl AsFd + Copy, line: Line) -> Result<(), Error> {
    let data = match line.data_bits {
        5 => ControlModes::CS5,
        6 => ControlModes::CS6,
        7 => ControlModes::CS7,
        8 => ControlModes::CS8,
        other => return Err(Error::Invalid(format!("a line has 5 to 8 data bits, not {other}"))),
    };
    let stop = match line.stop_bits {
        1 => ControlModes::empty(),
        2 => ControlModes::CSTOPB,
        other => return Err(Error::Invalid(format!("a line has 1 or 2 stop bits, not {other}"))),
    };
    let parity = match line.parity {
        Parity::None => ControlModes::empty(),
        Parity::Even => ControlModes::PARENB,
        Parity::Odd => ControlModes::PARENB | ControlModes::PARODD,
    };
    let set = || -> rustix::io::Result<()> {
        let mut modes = termios::tcgetattr(file)?;
        modes.make_raw();
        let ours = ControlModes::CSIZE | ControlModes::CSTOPB | ControlModes::PARENB | ControlModes::PARODD;
        modes.control_modes =
            (modes.control_modes - ours) | data | stop | parity | ControlModes::CLOCAL | ControlModes::CREAD;
        modes.set_speed(line.baud)?;
        termios::tcsetattr(file, OptionalActions::Now, &modes)
    };
    set().map_err(|error| Error::Invalid(format!("the line cannot be set to {} bits per second: {error}", line.baud)))
}
