//! Signals during an upload: the kernel is not left with half an image.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Signals that are noted instead of ending the program.
#[derive(Debug)]
pub struct Interrupts {
    came: Arc<AtomicBool>,
}

impl Interrupts {
    /// From here on one signal is noted; a second one ends the program all the same.
    pub fn note() -> io::Result<Self> {
        let came = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // Before the flag is set by the same signal.
            flag::register_conditional_shutdown(signal, 1, Arc::clone(&came))?;
            flag::register(signal, Arc::clone(&came))?;
        }
        Ok(Self { came })
    }

    /// True if a signal came.
    pub fn came(&self) -> bool {
        self.came.load(Ordering::Acquire)
    }
}
