//! A terminal for rank 0: its progress bar works as on the user's, and its last lines are kept.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

/// The launcher's end of a pseudo terminal, which has the size of the user's.
pub(crate) struct Terminal {
    pty: File,
    /// Whether standard error is the user's terminal; otherwise standard output is.
    is_stderr: bool,
    size: Option<(u16, u16)>,
}

impl Terminal {
    /// Connects those outputs of `command` to a new terminal that are one here. `None` where none is,
    /// or none can be made: then nothing is changed.
    pub(crate) fn connect(command: &mut Command) -> Option<Self> {
        let (stdout, stderr) = (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        if !stdout && !stderr {
            return None;
        }
        let (terminal, for_stdout) = Self::open(stderr).ok()?;
        let for_stderr = for_stdout.try_clone().ok()?;
        // One terminal for both, so that what a rank writes to them keeps its order.
        if stdout {
            command.stdout(Stdio::from(for_stdout));
        }
        if stderr {
            command.stderr(Stdio::from(for_stderr));
        }
        Some(terminal)
    }

    /// A terminal, and its other end, which a process writes to. It is the controlling terminal of
    /// nobody, so no key and no hang-up becomes a signal there.
    fn open(is_stderr: bool) -> std::io::Result<(Self, OwnedFd)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let pty = openpt(flags)?;
        grantpt(&pty)?;
        unlockpt(&pty)?;
        let end = ioctl_tiocgptpeer(&pty, flags)?;
        // Bytes pass unchanged: the user's terminal does with them what terminals do.
        let mut settings = tcgetattr(&end)?;
        settings.make_raw();
        tcsetattr(&end, OptionalActions::Now, &settings)?;
        let mut terminal = Self { pty: pty.into(), is_stderr, size: None };
        terminal.follow_size();
        Ok((terminal, end))
    }

    /// Takes on the size of the user's terminal, which may change, or be gone.
    fn follow_size(&mut self) {
        let size = match self.is_stderr {
            true => tcgetwinsize(std::io::stderr()),
            false => tcgetwinsize(std::io::stdout()),
        };
        let Ok(size) = size else { return };
        let rows_and_columns = Some((size.ws_row, size.ws_col));
        if self.size != rows_and_columns {
            // At worst a progress bar is drawn too wide.
            let _ = tcsetwinsize(&self.pty, size);
            self.size = rows_and_columns;
        }
    }

    /// Where to show what is read.
    pub(crate) fn shown_on(&self) -> Box<dyn Write + Send> {
        match self.is_stderr {
            true => Box::new(std::io::stderr()),
            false => Box::new(std::io::stdout()),
        }
    }
}

/// What ranks write; it fails once the last of them has ended.
impl Read for Terminal {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.follow_size();
        self.pty.read(buffer)
    }
}
