//! `execve`: a new program in a new address space.
//!
//! 1. The file is recognised; scripts lead to their interpreter.
//! 2. A blank space is made and everything is mapped into it. Until here any failure is an ordinary error.
//! 3. The other threads of the process end.
//! 4. The task moves into the new space; the old host process is killed if nobody else lives in it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::errno::{EINVAL, EIO, ELIBBAD, ELOOP, ENOEXEC, ENOMEM, SysResult};
use platform::{Context, Layout, MemoryError, MemoryOperation, NewSpace, Protection, Registers, UserMemory};

use super::image::{self, ElfFile, HEAD_SIZE, Kind, Segment};
use super::stack::InitialStack;
use super::{Credentials, ExitStatus, Limits, Resource, Task};
use crate::kernel::Kernel;
use crate::memory::{
    Backing, HostFile, MemoryManager, PAGE_SIZE, ProgramArea, Region, RegionFlags, map_operation,
};
use crate::vfs::{FileDescription, MappingSource};
use crate::wait::{CallResult, Failure, PollEvents, Restart};

/// Interpreters of interpreters (`#!` of `#!`) before `ELOOP`.
const SCRIPT_DEPTH: usize = 5;
/// Longest path of an ELF interpreter.
const INTERPRETER_PATH_MAX: u64 = 4096;
/// Largest stack that is set up, in bytes, whatever `RLIMIT_STACK` allows: it is mapped as a whole.
pub(crate) const STACK_MAX: u64 = 64 << 20;
/// Smallest stack, in bytes.
pub(crate) const STACK_MIN: u64 = 128 << 10;
/// Room that is left for the stack at least, should its limit be raised (`MIN_GAP` in Linux).
const STACK_ROOM: u64 = 128 << 20;
/// Room for arguments and environment (`ARG_MAX` is a quarter of the stack, 6 MiB at most).
const ARGUMENTS_MAX: u64 = 6 << 20;
/// Where position-independent programs go if nothing is randomised, as on Linux: two thirds up.
const RELOCATABLE_BASE: u64 = 0x5555_5555_4000;
/// Pages by which things are moved at random: 28 bits, as Linux's default.
const RANDOM_PAGES: u64 = 1 << 28;
/// Pages by which the break is moved at random.
const BREAK_RANDOM_PAGES: u64 = 1 << 13;

/// A program to run.
pub struct ExecRequest {
    /// The opened file.
    pub file: Arc<FileDescription>,
    /// The path as the application gave it (`AT_EXECFN`).
    pub path: Vec<u8>,
    /// `argv`.
    pub arguments: Vec<Vec<u8>>,
    /// `envp`.
    pub environment: Vec<Vec<u8>>,
}

/// A space under construction.
struct Loader<'a> {
    kernel: &'a Kernel,
    limits: &'a Limits,
    context: Box<dyn Context>,
    memory: Arc<MemoryManager>,
    user: Arc<dyn UserMemory>,
    randomness: Randomness,
    /// What the map says and the host does not know yet.
    regions: Vec<Region>,
    /// Where zeroes have to go: address and length.
    tails: Vec<(u64, usize)>,
}

/// Whether a program's areas are moved about (`ADDR_NO_RANDOMIZE` in `man 2 personality`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Randomness {
    Full,
    Off,
}

/// A program in its space, ready to run.
struct Loaded {
    randomness: Randomness,
    context: Box<dyn Context>,
    memory: Arc<MemoryManager>,
    registers: Registers,
}

/// Where an ELF file ended up.
struct Placed {
    bias: u64,
    end: u64,
}

impl Task {
    /// `execve`: on success the task's registers begin the new program.
    ///
    /// # Errors
    /// As `man 2 execve`; the task is unharmed.
    pub async fn execute(self: &Arc<Self>, mut request: ExecRequest) -> CallResult<()> {
        let original = Arc::clone(&request.file);
        let elf = self.resolve_interpreter(&mut request)?;
        let (credentials, secure) = self.credentials_for(&original)?;
        let loaded = self.load(&request, elf, &credentials, secure).await?;
        if self.end_other_threads().await.is_err() {
            return Err(Failure::Restart(Restart::NoIntr));
        }
        self.enter_program(loaded, credentials, &request).await;
        Ok(())
    }

    /// Follows `#!` lines until an ELF file is reached.
    fn resolve_interpreter(&self, request: &mut ExecRequest) -> SysResult<ElfFile> {
        for _ in 0..=SCRIPT_DEPTH {
            let head = read_head(&request.file)?;
            match image::recognise(&head)? {
                Kind::Elf => {
                    let file = Arc::clone(&request.file);
                    return image::parse_elf(&head, move |offset, buffer| read_exact(&file, offset, buffer));
                }
                Kind::Script { interpreter, argument } => {
                    let mut arguments = vec![interpreter.clone()];
                    arguments.extend(argument);
                    arguments.push(std::mem::replace(&mut request.path, interpreter.clone()));
                    arguments.extend(request.arguments.drain(..).skip(1));
                    request.arguments = arguments;
                    request.file = self.open_executable(libc::AT_FDCWD, &interpreter, 0)?;
                }
            }
        }
        Err(ELOOP)
    }

    async fn load(
        &self,
        request: &ExecRequest,
        elf: ElfFile,
        credentials: &Credentials,
        secure: bool,
    ) -> SysResult<Loaded> {
        let interpreter = match elf.interpreter {
            Some((offset, length)) => Some(self.open_interpreter(&request.file, offset, length)?),
            None => None,
        };
        let context = self.blank_context().await?;
        // A program that gains privilege does not let its caller know where it lies.
        let asked = self.settings.lock().no_randomization;
        let randomness = if asked && !secure { Randomness::Off } else { Randomness::Full };
        let loader = Loader::new(&self.kernel, &self.group.limits, context, randomness)?;
        loader.load(request, &elf, interpreter, credentials, secure).await
    }

    /// The task's own context if it has never run anything (it is new), or a fresh one.
    async fn blank_context(&self) -> SysResult<Box<dyn Context>> {
        if self.memory().is_blank()
            && let Some(context) = self.take_context()
        {
            return Ok(context);
        }
        new_space(&self.kernel).await
    }

    fn open_interpreter(
        &self,
        file: &FileDescription,
        offset: u64,
        length: u64,
    ) -> SysResult<(Arc<FileDescription>, ElfFile)> {
        if !(2..=INTERPRETER_PATH_MAX).contains(&length) {
            return Err(ENOEXEC);
        }
        let mut path = vec![0; usize::try_from(length).map_err(|_| ENOEXEC)?];
        read_exact(file, offset, &mut path)?;
        if path.pop() != Some(0) {
            return Err(ENOEXEC);
        }
        let interpreter = self.open_executable(libc::AT_FDCWD, &path, 0)?;
        let head = read_head(&interpreter)?;
        let elf = image::parse_elf(&head, |offset, buffer| read_exact(&interpreter, offset, buffer))
            .map_err(|_| ELIBBAD)?;
        Ok((interpreter, elf))
    }

    /// Who the task becomes (`man 7 capabilities`, "Transformation of capabilities during execve"), and whether the program must
    /// distrust its environment.
    fn credentials_for(&self, file: &FileDescription) -> SysResult<(Credentials, bool)> {
        let old = self.credentials();
        let mut new = (*old).clone();
        let attributes = file.inode.attributes()?;
        let nosuid = file.location.as_ref().is_some_and(|location| location.mount.ignores_set_ids());
        if !nosuid && !old.no_new_privileges {
            if attributes.permissions & 0o4000 != 0 {
                new.euid = attributes.uid;
            }
            if attributes.permissions & 0o2010 == 0o2010 {
                new.egid = attributes.gid;
            }
        }
        (new.suid, new.fsuid, new.sgid, new.fsgid) = (new.euid, new.euid, new.egid, new.egid);
        let changed = new.euid != old.euid || new.egid != old.egid;
        if changed {
            new.ambient = 0;
        }
        const SECBIT_NOROOT: u32 = 1;
        let as_root = (new.euid == 0 || new.uid == 0) && new.secure_bits & SECBIT_NOROOT == 0;
        new.permitted = if as_root { new.inheritable | new.bounding } else { new.ambient };
        new.effective = if as_root && new.euid == 0 { new.permitted } else { new.ambient };
        new.keep_capabilities = false;
        let secure = changed || (new.uid != new.euid || new.gid != new.egid);
        Ok((new, secure))
    }

    /// Ends the other threads of the process and waits until they are gone.
    async fn end_other_threads(self: &Arc<Self>) -> Result<(), ()> {
        if self.group.thread_count() <= 1 {
            return Ok(());
        }
        if !self.group.claim_exec() {
            return Err(());
        }
        for task in self.group.tasks() {
            if !Arc::ptr_eq(&task, self) {
                task.end_with(ExitStatus::Exited(0));
            }
        }
        self.group
            .thread_ended
            .until(PollEvents::IN, || {
                (self.group.thread_count() == 1 || self.must_exit.lock().is_some()).then_some(())
            })
            .await;
        self.group.release_exec();
        if self.must_exit.lock().is_some() {
            return Err(());
        }
        self.kernel.processes.take_over_number(self);
        Ok(())
    }

    /// The point of no return.
    async fn enter_program(
        self: &Arc<Self>,
        loaded: Loaded,
        credentials: Credentials,
        request: &ExecRequest,
    ) {
        self.release_robust_futexes();
        self.clear_child_tid().await;
        let base = request.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        self.set_name(base);
        loaded.memory.enter();
        let (old_context, old_memory) = self.replace_context(loaded.context, loaded.memory);
        self.with_context(|context| {
            if let Some(registers) = context.registers() {
                *registers = loaded.registers;
            }
        });
        old_memory.leave();
        if let Some(mut context) = old_context {
            let (user_ns, system_ns) = context.cpu_time_ns();
            self.group.add_past_times(user_ns, system_ns);
            context.kill();
        }
        self.finish_vfork();
        let handlers = self.group.signals.handlers().for_exec();
        self.group.signals.set_handlers(handlers);
        *self.signals.stack.lock() = abi::signals::StackT::DISABLED;
        self.group.has_execed.store(true, Ordering::Relaxed);
        self.group.dumpable.store(credentials.euid == credentials.uid, Ordering::Relaxed);
        self.parent_death_signal.store(0, Ordering::Relaxed);
        self.group.timers.drop_for_exec();
        {
            let mut settings = self.settings.lock();
            (settings.fs_base, settings.gs_base) = (0, 0);
            settings.no_randomization = loaded.randomness == Randomness::Off;
        }
        self.set_credentials(credentials);
        self.close_on_exec();
    }

    fn close_on_exec(&self) {
        self.unshare_files();
        for file in self.files().remove_where(|_, flags| flags.contains(crate::vfs::FdFlags::CLOEXEC)) {
            file.ops.flush(self);
        }
    }
}

/// A blank address space from the platform.
pub async fn new_space(kernel: &Kernel) -> SysResult<Box<dyn Context>> {
    let mut request = NewSpace::default();
    std::future::poll_fn(|wake| kernel.platform.poll_new_space(wake, &mut request)).await
}

fn read_head(file: &FileDescription) -> SysResult<Vec<u8>> {
    let mut head = vec![0; HEAD_SIZE];
    let mut filled = 0;
    while filled < head.len() {
        let count = file.ops.read(filled as u64, head.get_mut(filled..).unwrap_or_default(), file)?;
        if count == 0 {
            break;
        }
        filled += count;
    }
    head.truncate(filled);
    Ok(head)
}

fn read_exact(file: &FileDescription, offset: u64, buffer: &mut [u8]) -> SysResult<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        let rest = buffer.get_mut(filled..).ok_or(EIO)?;
        match file.ops.read(offset + filled as u64, rest, file)? {
            0 => return Err(ENOEXEC),
            count => filled += count,
        }
    }
    Ok(())
}

impl Randomness {
    /// By how many bytes, whole pages, to move something.
    fn pages(self, range: u64) -> SysResult<u64> {
        if self == Self::Off {
            return Ok(0);
        }
        let mut bytes = [0; 8];
        crate::random::fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes) % range * PAGE_SIZE)
    }
}

const fn page_down(address: u64) -> u64 {
    address & !(PAGE_SIZE - 1)
}

const fn page_up(address: u64) -> u64 {
    (address + PAGE_SIZE - 1) & !(PAGE_SIZE - 1)
}

impl<'a> Loader<'a> {
    fn new(
        kernel: &'a Kernel,
        limits: &'a Limits,
        context: Box<dyn Context>,
        randomness: Randomness,
    ) -> SysResult<Self> {
        let layout = kernel.platform.layout();
        let stack_top = stack_top(&layout);
        let mmap_top = stack_top
            - stack_size(limits).max(STACK_ROOM)
            - (1 << 20)
            - randomness.pages(RANDOM_PAGES >> 8)?;
        let memory = MemoryManager::new(layout, page_down(mmap_top));
        let user = context.memory();
        let (regions, tails) = Default::default();
        Ok(Self { kernel, limits, context, memory, user, randomness, regions, tails })
    }

    async fn load(
        mut self,
        request: &ExecRequest,
        elf: &ElfFile,
        interpreter: Option<(Arc<FileDescription>, ElfFile)>,
        credentials: &Credentials,
        secure: bool,
    ) -> SysResult<Loaded> {
        let wish =
            if elf.is_relocatable { RELOCATABLE_BASE + self.randomness.pages(RANDOM_PAGES)? } else { 0 };
        let placed = self.map_elf(&request.file, elf, wish)?;
        let mut entry = elf.entry.wrapping_add(placed.bias);
        let mut base = 0;
        if let Some((file, interpreter)) = interpreter {
            let wish = self.memory.find_room(span(&interpreter).1).ok_or(ENOMEM)?;
            let placed = self.map_elf(&file, &interpreter, wish)?;
            entry = interpreter.entry.wrapping_add(placed.bias);
            base = placed.bias;
        }
        let auxiliary = self.auxiliary(elf, &placed, base, credentials, secure);
        let pointer = self.map_stack(request, elf.executable_stack, auxiliary).await?;
        self.memory.set_program_break(placed.end + self.randomness.pages(BREAK_RANDOM_PAGES)?);
        self.memory.set_executable(Arc::clone(&request.file));
        self.note_program_area(elf, &placed);
        // The reset state of the processor, as the ABI wants it at a program's start.
        self.context.set_fp_state(None).map_err(|_| ENOMEM)?;
        let registers = Registers { rip: entry, rsp: pointer, eflags: 0x202, ..Registers::default() };
        Ok(Loaded { randomness: self.randomness, context: self.context, memory: self.memory, registers })
    }

    /// Plans a file's segments; `wish` is where a relocatable file begins.
    fn map_elf(&mut self, file: &Arc<FileDescription>, elf: &ElfFile, wish: u64) -> SysResult<Placed> {
        let MappingSource::Host(source) = file.ops.mapping(file)? else { return Err(ENOEXEC) };
        let (first, length) = span(elf);
        let bias = if elf.is_relocatable { (wish & !(elf.alignment - 1)).wrapping_sub(first) } else { 0 };
        let start = first.wrapping_add(bias);
        let layout = self.memory.layout();
        if start < layout.min_address || start.checked_add(length).is_none_or(|end| end > layout.max_address)
        {
            return Err(if elf.is_relocatable { ENOMEM } else { EINVAL });
        }
        let mut regions = Vec::new();
        for segment in &elf.segments {
            segment_regions(segment, bias, file, &source, &mut regions);
        }
        if regions.iter().any(|region| !self.memory.is_free(region.start, region.end)) {
            return Err(ENOMEM);
        }
        for region in &regions {
            self.memory.enter_region(region.clone());
        }
        self.regions.append(&mut regions);
        for segment in &elf.segments {
            self.note_tail(segment, bias)?;
        }
        let end = elf.segments.iter().map(|segment| segment.address + segment.memory_size).max().unwrap_or(0);
        Ok(Placed { bias, end: page_up(end.wrapping_add(bias)) })
    }

    /// Notes what lies between the end of a segment's bytes and the end of their last page, which has to be zeroed.
    fn note_tail(&mut self, segment: &Segment, bias: u64) -> SysResult<()> {
        let end = (segment.address + segment.file_size).wrapping_add(bias);
        let tail = page_up(end) - end;
        if segment.memory_size == segment.file_size || tail == 0 || segment.file_size == 0 {
            return Ok(());
        }
        if !segment.protection.write {
            return Err(ENOEXEC);
        }
        self.tails.push((end, usize::try_from(tail).map_err(|_| ENOEXEC)?));
        Ok(())
    }

    /// Has the host map everything that was planned, in one go.
    async fn carry_out(&mut self) -> SysResult<()> {
        let regions = std::mem::take(&mut self.regions);
        let operations: Vec<MemoryOperation<'_>> = regions.iter().map(map_operation).collect();
        std::future::poll_fn(|wake| self.context.poll_memory(wake, &operations)).await.map_err(|error| {
            match error {
                MemoryError::Refused { errno, .. } => errno,
                MemoryError::Died => ENOMEM,
            }
        })?;
        let zeroes = [0; PAGE_SIZE as usize];
        for (start, length) in self.tails.drain(..) {
            let piece = zeroes.get(..length).ok_or(ENOEXEC)?;
            if self.user.write(start, piece)? != length {
                return Err(ENOEXEC);
            }
        }
        Ok(())
    }

    async fn map_stack(
        &mut self,
        request: &ExecRequest,
        executable: bool,
        auxiliary: Vec<(u64, u64)>,
    ) -> SysResult<u64> {
        let size = stack_size(self.limits);
        let end = stack_top(&self.memory.layout());
        let region = Region {
            start: end - size,
            end,
            protection: Protection { read: true, write: true, execute: executable },
            may_write: true,
            may_execute: true,
            flags: RegionFlags::STACK | RegionFlags::NORESERVE,
            backing: Backing::Anonymous,
        };
        self.memory.enter_region(region.clone());
        self.regions.push(region);
        self.carry_out().await?;
        let mut random = [0; 16];
        crate::random::fill(&mut random)?;
        let stack = InitialStack {
            arguments: &request.arguments,
            environment: &request.environment,
            file_name: &request.path,
            random,
            auxiliary,
        };
        let top = end - self.randomness.pages(256)?.min(size / 8) - PAGE_SIZE;
        let built = stack.build(top, (size / 4).clamp(STACK_MIN, ARGUMENTS_MAX))?;
        if self.user.write(built.pointer, &built.bytes)? != built.bytes.len() {
            return Err(ENOMEM);
        }
        let mut program = self.memory.program.lock();
        program.start_stack = built.pointer;
        (program.arguments_start, program.arguments_end) = built.arguments;
        (program.environment_start, program.environment_end) = built.environment;
        drop(program);
        *self.memory.auxiliary.lock() = built.auxiliary;
        Ok(built.pointer)
    }

    fn auxiliary(
        &self,
        elf: &ElfFile,
        placed: &Placed,
        base: u64,
        credentials: &Credentials,
        secure: bool,
    ) -> Vec<(u64, u64)> {
        let headers = elf.headers_address.map_or(0, |address| address.wrapping_add(placed.bias));
        let facts = &self.kernel.host_facts;
        let mut vector = Vec::new();
        if let Some(vdso) = self.memory.layout().vdso {
            vector.push((33, vdso.start));
        }
        vector.extend([
            (51, facts.minimum_signal_stack),
            (16, facts.hardware_capabilities),
            (6, PAGE_SIZE),
            (17, 100),
            (3, headers),
            (4, 56),
            (5, u64::from(elf.headers_count)),
            (7, base),
            (8, 0),
            (9, elf.entry.wrapping_add(placed.bias)),
            (11, credentials.uid.into()),
            (12, credentials.euid.into()),
            (13, credentials.gid.into()),
            (14, credentials.egid.into()),
            (23, u64::from(secure)),
            (26, facts.hardware_capabilities_2),
        ]);
        vector
    }

    fn note_program_area(&self, elf: &ElfFile, placed: &Placed) {
        let mut program = self.memory.program.lock();
        let bias = placed.bias;
        let code = elf.segments.iter().find(|segment| segment.protection.execute);
        let data = elf.segments.iter().rfind(|segment| segment.protection.write);
        let range = |segment: &Segment| {
            (segment.address.wrapping_add(bias), (segment.address + segment.file_size).wrapping_add(bias))
        };
        let (start_code, end_code) = code.map(range).unwrap_or_default();
        let (start_data, end_data) = data.map(range).unwrap_or_default();
        *program = ProgramArea { start_code, end_code, start_data, end_data, ..*program };
    }
}

/// The first address above the stack: below the platform's vDSO, a page apart.
fn stack_top(layout: &Layout) -> u64 {
    let roof = layout.vdso.map_or(layout.max_address, |vdso| vdso.data_start.min(vdso.start));
    page_down(roof) - PAGE_SIZE
}

fn stack_size(limits: &Limits) -> u64 {
    page_up(limits.soft(Resource::Stack).clamp(STACK_MIN, STACK_MAX))
}

/// First address and length of everything a file's segments cover, in whole pages.
fn span(elf: &ElfFile) -> (u64, u64) {
    let first = elf.segments.iter().map(|segment| page_down(segment.address)).min().unwrap_or(0);
    let end =
        elf.segments.iter().map(|segment| page_up(segment.address + segment.memory_size)).max().unwrap_or(0);
    (first, end - first)
}

/// The mappings of one segment: its bytes, and zeroes behind them.
fn segment_regions(
    segment: &Segment,
    bias: u64,
    file: &Arc<FileDescription>,
    source: &Arc<HostFile>,
    regions: &mut Vec<Region>,
) {
    let start = page_down(segment.address).wrapping_add(bias);
    let file_end = page_up(segment.address + segment.file_size).wrapping_add(bias);
    let end = page_up(segment.address + segment.memory_size).wrapping_add(bias);
    let region = |start, end, backing| Region {
        start,
        end,
        protection: segment.protection,
        may_write: true,
        may_execute: true,
        flags: RegionFlags::empty(),
        backing,
    };
    let zero_start = if segment.file_size == 0 { start } else { file_end };
    if zero_start > start {
        let backing = Backing::File {
            source: Arc::clone(source),
            offset: page_down(segment.offset),
            file: Arc::clone(file),
        };
        regions.push(region(start, zero_start, backing));
    }
    if end > zero_start {
        regions.push(region(zero_start, end, Backing::Anonymous));
    }
}
