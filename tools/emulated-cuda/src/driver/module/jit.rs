//! Options of the compiler of PTX, of which only the logs mean something here.

use super::{
    super::{
        ffi::{In, Out},
        status::{Outcome, Status},
    },
    image::Failure,
};

const WALL_TIME: u32 = 2;
const INFO_LOG: u32 = 3;
const INFO_LOG_SIZE: u32 = 4;
const ERROR_LOG: u32 = 5;
const ERROR_LOG_SIZE: u32 = 6;
/// Options that are known, if ignored: registers, optimisation and debug levels, targets, caches.
const LAST_OPTION: u32 = 34;

/// A buffer for a log.
#[derive(Clone, Copy, Default)]
struct LogBuffer {
    text: Option<Out<u8>>,
    /// Where its size stands, and where the bytes written are put.
    size: Option<Out<usize>>,
}

impl LogBuffer {
    /// Whether the text could be written somewhere.
    fn write(self, text: &str) -> bool {
        let (Some(buffer), Some(size)) = (self.text, self.size) else { return false };
        // A size is an unsigned int in a pointer's place.
        let room = size.get().unwrap_or(0) as u32 as usize;
        if room == 0 || buffer.set_text(text, room).is_err() {
            return false;
        }
        size.offer((text.len() + 1).min(room));
        true
    }
}

/// Options of a load.
#[derive(Clone, Copy, Default)]
pub struct Jit {
    info: LogBuffer,
    error: LogBuffer,
    wall_time: Option<Out<usize>>,
}

impl Jit {
    /// Reads the caller's two arrays.
    pub fn read(count: u32, options: In<u32>, values: Out<usize>) -> Outcome<Self> {
        let mut jit = Self::default();
        for index in 0..count as usize {
            let value = values.at(index);
            let content = value.get()?;
            match options.at(index)? {
                WALL_TIME => jit.wall_time = Some(value),
                INFO_LOG => jit.info.text = Some(Out::from_address(content)),
                INFO_LOG_SIZE => jit.info.size = Some(value),
                ERROR_LOG => jit.error.text = Some(Out::from_address(content)),
                ERROR_LOG_SIZE => jit.error.size = Some(value),
                0..=LAST_OPTION => {}
                _ => return Err(Status::INVALID_VALUE),
            }
        }
        Ok(jit)
    }

    /// Writes what became of a load into the logs; to stderr where there is no log for an error.
    pub fn log<T>(&self, result: Result<T, Failure>) -> Outcome<T> {
        if let Some(time) = self.wall_time {
            // A float in a pointer's place.
            time.cast::<f32>().offer(0.0);
        }
        self.info.write("");
        match result {
            Ok(value) => {
                self.error.write("");
                Ok(value)
            }
            Err(Failure { status, message }) => {
                if !self.error.write(&message) {
                    eprintln!("emulated-cuda: {message}");
                }
                Err(status)
            }
        }
    }
}
