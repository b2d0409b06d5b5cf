//! Devices of the node that carry bytes both ways, as serial lines do: sensors and actuators.
//!
//! Granted by `devices = ["/dev/ttyUSB0"]`; the node must offer it, too.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use littoral_sdk::devices::{Device, Line};
//!
//! fn temperature() -> littoral_sdk::Result<String> {
//!     let device = Device::open("/dev/ttyUSB0", Some(Line { baud: 9_600, ..Line::default() }))?;
//!     device.write(b"T?\n")?;
//!     Ok(String::from_utf8(device.read(64, Duration::from_millis(200))?)?)
//! }
//! ```

use std::time::Duration;

use crate::Result;

/// Whether a bit is sent for the others to be checked by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parity {
    /// None is.
    #[default]
    None,
    /// One that makes the number of ones even.
    Even,
    /// One that makes it odd.
    Odd,
}

/// How a serial line is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Bits per second.
    pub baud: u32,
    /// 5 to 8.
    pub data_bits: u8,
    /// The parity.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
}

impl Default for Line {
    /// 115,200 bits per second, `8N1`.
    fn default() -> Self {
        Self { baud: 115_200, data_bits: 8, parity: Parity::None, stop_bits: 1 }
    }
}

/// A device that is open.
#[derive(Debug)]
pub struct Device(component::Device);

impl Device {
    /// Opens a device by its path on the node, and sets the line if it is a serial one.
    ///
    /// # Errors
    /// When it is not granted or not there, or cannot be set like that.
    pub fn open(path: &str, line: Option<Line>) -> Result<Self> {
        component::open(path, line).map(Self)
    }

    /// Reads what has come, 1 to `max` bytes (at most 64 KiB), and waits for it for so long at most; nothing if nothing came.
    ///
    /// # Errors
    /// When the device was unplugged or fails.
    pub fn read(&self, max: u32, within: Duration) -> Result<Vec<u8>> {
        component::read(&self.0, max, within)
    }

    /// Writes all of the bytes, at most 64 KiB.
    ///
    /// # Errors
    /// When the device fails, or does not take them in the time that the invocation has.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        component::write(&self.0, bytes)
    }
}

#[cfg(target_arch = "wasm32")]
mod component {
    use std::time::Duration;

    use super::{Line, Parity};
    use crate::fabric_bindings::littoral::fabric::devices;
    use crate::{Error, Result};

    pub(super) use devices::Device;

    pub(super) fn open(path: &str, line: Option<Line>) -> Result<Device> {
        let line = line.map(|line| devices::Line {
            baud: line.baud,
            data_bits: line.data_bits,
            parity: match line.parity {
                Parity::None => devices::Parity::None,
                Parity::Even => devices::Parity::Even,
                Parity::Odd => devices::Parity::Odd,
            },
            stop_bits: line.stop_bits,
        });
        Device::open(path, line).map_err(text)
    }

    pub(super) fn read(device: &Device, max: u32, within: Duration) -> Result<Vec<u8>> {
        device.read(max, u64::try_from(within.as_micros()).unwrap_or(u64::MAX)).map_err(text)
    }

    pub(super) fn write(device: &Device, bytes: &[u8]) -> Result<()> {
        device.write(bytes).map_err(text)
    }

    fn text(error: devices::Error) -> Error {
        let (devices::Error::Denied(text) | devices::Error::Invalid(text) | devices::Error::Failed(text)) = error;
        Error::new(text)
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod component {
    //! A test on the host has no devices.

    use std::time::Duration;

    use super::Line;
    use crate::{Error, Result};

    /// Never made.
    #[derive(Debug)]
    pub(super) enum Device {}

    pub(super) fn open(path: &str, _: Option<Line>) -> Result<Device> {
        Err(Error::new(format!(
            "there is no device `{path}` outside of a component; put what uses it behind a trait of your own"
        )))
    }

    pub(super) fn read(device: &Device, _: u32, _: Duration) -> Result<Vec<u8>> {
        match *device {}
    }

    pub(super) fn write(device: &Device, _: &[u8]) -> Result<()> {
        match *device {}
    }
}
