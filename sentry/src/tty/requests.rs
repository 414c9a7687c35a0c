//! `man 2 ioctl_tty`: the requests of terminals, for both sides. On a master most of them are about its slave.

use std::sync::Arc;

use abi::errno::{EAGAIN, EINVAL, EIO, EMFILE, ENOTTY, EPERM, ESRCH, SysResult};
use abi::files::OpenFlags;
use abi::ioctls::{
    FIONREAD, TCFLSH, TCGETS, TCGETS2, TCSBRK, TCSBRKP, TCSETS, TCSETS2, TCSETSF, TCSETSF2, TCSETSW,
    TCSETSW2, TCXONC, TIOCCBRK, TIOCEXCL, TIOCGDEV, TIOCGETD, TIOCGEXCL, TIOCGPGRP, TIOCGPKT, TIOCGPTLCK,
    TIOCGPTN, TIOCGPTPEER, TIOCGSID, TIOCGSOFTCAR, TIOCGWINSZ, TIOCNOTTY, TIOCNXCL, TIOCOUTQ, TIOCPKT,
    TIOCSBRK, TIOCSCTTY, TIOCSETD, TIOCSIG, TIOCSPGRP, TIOCSPTLCK, TIOCSSOFTCAR, TIOCSTI, TIOCSWINSZ,
    TIOCVHANGUP,
};
use abi::signals::{SIGINT, SIGQUIT, SIGTSTP, Signal};
use abi::terminals::{
    B0, BOTHER, CBAUD, ControlFlags, N_TTY, TCIFLUSH, TCIOFF, TCIOFLUSH, TCION, TCOFLUSH, TCOOFF, TCOON,
    Termios, Termios2, VSTART, VSTOP, Winsize,
};

use super::job_control::{give_up, is_leader, signal_group};
use super::line_discipline::{Effects, Queues};
use super::terminal::State;
use super::{Side, Terminal};
use crate::fs::devpts;
use crate::task::{Resource, Task};
use crate::vfs::{FdFlags, FileDescription, OpenHow, Opening};

/// `CAP_SYS_ADMIN`
const CAP_SYS_ADMIN: u32 = 21;

/// Whether a request changes the terminal, so that the background may not make it.
pub(super) const fn changes(request: u32) -> bool {
    matches!(
        request,
        TCSETS
            | TCSETSW
            | TCSETSF
            | TCSETS2
            | TCSETSW2
            | TCSETSF2
            | TIOCSPGRP
            | TIOCSETD
            | TIOCSBRK
            | TIOCCBRK
            | TCSBRK
            | TCSBRKP
            | TCXONC
            | TCFLSH
    )
}

/// Carries out a request.
pub(super) fn carry_out(
    terminal: &Arc<Terminal>,
    side: Side,
    task: &Task,
    file: &FileDescription,
    request: u32,
    argument: u64,
) -> SysResult<u64> {
    match request {
        TCGETS => task.write_value(argument, &terminal.termios().short())?,
        TCGETS2 => task.write_value(argument, &terminal.termios())?,
        TCSETS | TCSETSW | TCSETSF | TCSETS2 | TCSETSW2 | TCSETSF2 => {
            set_termios(terminal, task, request, argument)?;
        }
        TIOCGWINSZ => {
            terminal.look_at_host_window();
            task.write_value(argument, &terminal.window())?;
        }
        TIOCSWINSZ => terminal.set_window(task.read_value::<Winsize>(argument)?),
        TIOCGPGRP | TIOCGSID => {
            task.write_value(argument, &session_number(terminal, side, task, request)?)?;
        }
        TIOCSPGRP => set_foreground(terminal, task, task.read_value(argument)?)?,
        TIOCSCTTY => acquire(terminal, task, file, argument)?,
        TIOCNOTTY if !controls(terminal, task) || side == Side::Master => return Err(ENOTTY),
        TIOCNOTTY => give_up(task, terminal),
        FIONREAD | TIOCOUTQ => task.write_value(argument, &queued(terminal, side, request))?,
        TCFLSH => flush(terminal, side, argument)?,
        TCXONC => flow(terminal, side, argument)?,
        // Output is processed at once and there is no line to send a break on: neither waits, as on Linux.
        TCSBRK | TCSBRKP | TIOCSBRK | TIOCCBRK => {}
        TIOCEXCL | TIOCNXCL => terminal.change(|state, _| state.exclusive = request == TIOCEXCL),
        TIOCGEXCL => task.write_value(argument, &i32::from(terminal.look(|state| state.exclusive)))?,
        TIOCGETD => task.write_value(argument, &i32::from(N_TTY))?,
        TIOCSETD if task.read_value::<i32>(argument)? != i32::from(N_TTY) => return Err(EINVAL),
        TIOCSETD => {}
        TIOCGSOFTCAR | TIOCSSOFTCAR => soft_carrier(terminal, task, request, argument)?,
        TIOCGDEV => {
            let device = if side == Side::Slave { terminal.device() } else { super::PTMX };
            task.write_value(argument, &u32::try_from(device.encode()).unwrap_or(u32::MAX))?;
        }
        // Both let one program act for another on the same terminal.
        TIOCSTI => return Err(EIO),
        TIOCVHANGUP => return Err(EPERM),
        _ if side == Side::Master => return master_request(terminal, task, file, request, argument),
        _ => return Err(ENOTTY),
    }
    Ok(0)
}

fn controls(terminal: &Arc<Terminal>, task: &Task) -> bool {
    task.group.controlling_terminal().is_some_and(|own| Arc::ptr_eq(&own, terminal))
}

fn set_termios(terminal: &Terminal, task: &Task, request: u32, argument: u64) -> SysResult<()> {
    let mut termios = terminal.termios();
    if matches!(request, TCSETS2 | TCSETSW2 | TCSETSF2) {
        termios = task.read_value::<Termios2>(argument)?;
    } else {
        termios.set_short(&task.read_value::<Termios>(argument)?);
    }
    if let Some(speed) = speed_of(termios.c_cflag) {
        (termios.c_ispeed, termios.c_ospeed) = (speed, speed);
    }
    terminal.change(|state, effects| {
        if matches!(request, TCSETSF | TCSETSF2) {
            state.flush_typed(effects);
        }
        state.discipline.set_termios(termios, effects);
    });
    Ok(())
}

/// The number behind a `Bxxx` constant; `None` for `BOTHER`, whose number stands beside it.
fn speed_of(control: u32) -> Option<u32> {
    const SLOW: [u32; 16] =
        [0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400];
    const FAST: [u32; 15] = [
        57_600, 115_200, 230_400, 460_800, 500_000, 576_000, 921_600, 1_000_000, 1_152_000, 1_500_000,
        2_000_000, 2_500_000, 3_000_000, 3_500_000, 4_000_000,
    ];
    let code = control & CBAUD;
    if code == BOTHER {
        return None;
    }
    let index = |code: u32| usize::try_from(code).unwrap_or(usize::MAX);
    let speed = if code & BOTHER == 0 {
        SLOW.get(index(code - B0))
    } else {
        FAST.get(index((code & !BOTHER).wrapping_sub(1)))
    };
    speed.copied()
}

fn session_number(terminal: &Arc<Terminal>, side: Side, task: &Task, request: u32) -> SysResult<i32> {
    if side == Side::Slave && !controls(terminal, task) {
        return Err(ENOTTY);
    }
    if request == TIOCGSID {
        return terminal.session().ok_or(ENOTTY);
    }
    Ok(terminal.foreground().unwrap_or(0))
}

/// `tcsetpgrp`; the background was judged before.
fn set_foreground(terminal: &Arc<Terminal>, task: &Task, pgid: i32) -> SysResult<()> {
    if pgid < 0 {
        return Err(EINVAL);
    }
    let sid = task.group.sid();
    if !controls(terminal, task) || terminal.session() != Some(sid) {
        return Err(ENOTTY);
    }
    let members = task.kernel.processes.members(pgid);
    let member = members.first().ok_or(ESRCH)?;
    if member.sid() != sid {
        return Err(EPERM);
    }
    terminal.set_foreground(pgid);
    Ok(())
}

/// `TIOCSCTTY`
fn acquire(terminal: &Arc<Terminal>, task: &Task, file: &FileDescription, argument: u64) -> SysResult<()> {
    let group = &task.group;
    let leads = is_leader(group);
    if leads && terminal.session() == Some(group.sid()) {
        return Ok(());
    }
    if !leads || group.controlling_terminal().is_some() {
        return Err(EPERM);
    }
    let administers = task.credentials().has(CAP_SYS_ADMIN);
    let taken = terminal.session().is_some();
    if taken && !(argument == 1 && administers) || !file.readable && !administers {
        return Err(EPERM);
    }
    if taken {
        terminal.leave_session(&task.kernel);
    }
    terminal.become_controlling(group);
    Ok(())
}

fn queued(terminal: &Terminal, side: Side, request: u32) -> i32 {
    let bytes = terminal.look(|state| match (side, request) {
        (Side::Slave, FIONREAD) => state.discipline.readable_bytes(),
        (Side::Master, FIONREAD) => state.discipline.output_bytes(),
        // As on Linux, what is written to a pseudo-terminal has arrived.
        _ => 0,
    });
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

fn flush(terminal: &Terminal, side: Side, argument: u64) -> SysResult<()> {
    let queues = match i32::try_from(argument) {
        Ok(TCIFLUSH) => Queues::Input,
        Ok(TCOFLUSH) => Queues::Output,
        Ok(TCIOFLUSH) => Queues::Both,
        _ => return Err(EINVAL),
    };
    terminal.change(|state, effects| {
        // What the master reads is what the slave has written.
        let reads = if side == Side::Slave { Queues::Input } else { Queues::Output };
        if queues == Queues::Both
            || queues == reads && side == Side::Slave
            || queues != reads && side == Side::Master
        {
            state.flush_typed(effects);
        }
        if queues == Queues::Both
            || queues != reads && side == Side::Slave
            || queues == reads && side == Side::Master
        {
            state.discipline.flush(Queues::Output, effects);
        }
    });
    Ok(())
}

fn flow(terminal: &Terminal, side: Side, argument: u64) -> SysResult<()> {
    let action = i32::try_from(argument).map_err(|_| EINVAL)?;
    if !matches!(action, TCOOFF | TCOON | TCIOFF | TCION) {
        return Err(EINVAL);
    }
    if side == Side::Master {
        // A master's own output is never stopped.
        return Ok(());
    }
    terminal.change(|state, effects| match action {
        TCOOFF => state.discipline.stop_by_call(effects),
        TCOON => state.discipline.start_by_call(effects),
        // The character goes to whoever types.
        _ => state.discipline.send_key(if action == TCIOFF { VSTOP } else { VSTART }, effects),
    });
    Ok(())
}

fn soft_carrier(terminal: &Terminal, task: &Task, request: u32, argument: u64) -> SysResult<()> {
    let local = ControlFlags::CLOCAL.bits();
    if request == TIOCGSOFTCAR {
        return task.write_value(argument, &i32::from(terminal.termios().c_cflag & local != 0));
    }
    let on = task.read_value::<i32>(argument)? != 0;
    terminal.change(|state, effects| {
        let mut termios = *state.discipline.termios();
        termios.c_cflag = termios.c_cflag & !local | if on { local } else { 0 };
        state.discipline.set_termios(termios, effects);
    });
    Ok(())
}

fn master_request(
    terminal: &Arc<Terminal>,
    task: &Task,
    file: &FileDescription,
    request: u32,
    argument: u64,
) -> SysResult<u64> {
    match request {
        TIOCGPTN => task.write_value(argument, &terminal.number())?,
        TIOCSPTLCK => {
            let locked = task.read_value::<i32>(argument)? != 0;
            terminal.change(|state, _| state.locked = locked);
        }
        TIOCGPTLCK => task.write_value(argument, &i32::from(terminal.look(|state| state.locked)))?,
        TIOCPKT => terminal.set_packet(task.read_value::<i32>(argument)? != 0),
        TIOCGPKT => task.write_value(argument, &i32::from(terminal.look(|state| state.packet)))?,
        TIOCSIG => signal_slave(terminal, task, argument)?,
        TIOCGPTPEER => return open_peer(terminal, task, file, argument),
        _ => return Err(ENOTTY),
    }
    Ok(0)
}

/// `TIOCSIG`
fn signal_slave(terminal: &Terminal, task: &Task, argument: u64) -> SysResult<()> {
    let signal = i32::try_from(argument).ok().and_then(Signal::new).ok_or(EINVAL)?;
    if ![SIGINT, SIGQUIT, SIGTSTP].contains(&signal) {
        return Err(EINVAL);
    }
    if let Some(pgid) = terminal.foreground() {
        signal_group(&task.kernel, pgid, signal);
    }
    Ok(())
}

/// `TIOCGPTPEER`: opens the slave whatever its path is.
fn open_peer(terminal: &Terminal, task: &Task, file: &FileDescription, argument: u64) -> SysResult<u64> {
    let flags = OpenFlags::from_bits_retain(u32::try_from(argument).map_err(|_| EINVAL)?);
    let slave = devpts::slave_location(task, file, terminal)?;
    let how = OpenHow::lenient(flags, 0)?;
    let Opening::Ready(opened) = task.open_location(slave, how)? else { return Err(EAGAIN) };
    let descriptor_flags =
        if flags.contains(OpenFlags::O_CLOEXEC) { FdFlags::CLOEXEC } else { FdFlags::empty() };
    let limit = task.group.limits.soft(Resource::OpenFiles);
    let fd = task.files().install_from(0, opened, descriptor_flags, limit)?;
    u64::try_from(fd).map_err(|_| EMFILE)
}

impl State {
    /// Drops what was typed.
    fn flush_typed(&mut self, effects: &mut Effects) {
        self.backlog.clear();
        self.discipline.flush(Queues::Input, effects);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::terminals::{B38400, B57600, B115200};

    #[test]
    fn speeds_are_the_numbers_of_their_codes() {
        assert_eq!([B0, B38400, B57600, B115200].map(speed_of), [0, 38400, 57600, 115_200].map(Some));
        assert_eq!(speed_of(BOTHER), None);
        assert_eq!(speed_of(0x100f), Some(4_000_000));
    }
}
