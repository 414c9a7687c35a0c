//! The vector state (x87, SSE, AVX …) between ptrace's format and that of a signal frame.
//!
//! Both are XSAVE areas in the standard format. `NT_X86_XSTATE` keeps the mask of host features in the bytes at 464,
//! a signal frame has `struct _fpx_sw_bytes` (`<asm/sigcontext.h>`) there and a second magic number behind the area.
//!
//! Invariant: what [`VectorLayout::sanitize`] returns is accepted by the processor, whatever it was given.

use abi::errno::{self, Errno};

use super::requests::Stopped;

const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
const MAGIC2_BYTES: usize = 4;

const FCW: usize = 0;
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
const SOFTWARE: usize = 464;
const SOFTWARE_FEATURES: usize = SOFTWARE + 8;
const SOFTWARE_SIZE: usize = SOFTWARE + 16;
const LEGACY_BYTES: usize = 512;
const HEADER: usize = LEGACY_BYTES;
const HEADER_BYTES: usize = 64;

/// x87 and SSE: the features an FXSAVE area holds.
const LEGACY_FEATURES: u64 = 0b11;
/// AMX tiles: a process must ask for them first (`ARCH_REQ_XCOMP_PERM`), which stubs do not.
const AMX_FEATURES: u64 = 0b11 << 17;
/// Values after `fninit` and at reset.
const INITIAL_FCW: u16 = 0x37f;
const INITIAL_MXCSR: u32 = 0x1f80;
/// Used where `mxcsr_mask` is 0 (Intel SDM 11.6.6).
const DEFAULT_MXCSR_MASK: u32 = 0xffbf;

/// Size and features of the host's XSAVE area, as far as stubs use it.
#[derive(Clone, Copy, Debug)]
pub(super) struct VectorLayout {
    size: usize,
    /// `PTRACE_SETREGSET` wants exactly as much as the host has, AMX included.
    host_size: usize,
    features: u64,
    mxcsr_mask: u32,
}

fn read_u32(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..offset + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn read_u64(bytes: &[u8], offset: usize) -> u64 {
    bytes.get(offset..offset + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(offset..offset + value.len()) {
        place.copy_from_slice(value);
    }
}

impl VectorLayout {
    /// Asks the host by reading a stub's state. `ENODEV` on processors without XSAVE.
    pub(super) fn probe(stopped: &Stopped) -> Result<Self, Errno> {
        let mut area = vec![0; 64 * 1024];
        let size = stopped.vector_state(&mut area)?;
        if size < HEADER + HEADER_BYTES {
            return Err(errno::ENODEV);
        }
        let host_features = read_u64(&area, SOFTWARE);
        let features = host_features & !AMX_FEATURES;
        let host_size = size;
        let size = if features == host_features { size } else { standard_size(features).min(size) };
        let mxcsr_mask = match read_u32(&area, MXCSR_MASK) {
            0 => DEFAULT_MXCSR_MASK,
            mask => mask,
        };
        Ok(Self { size, host_size, features, mxcsr_mask })
    }

    /// The stub's state as a signal frame holds it.
    pub(super) fn capture(&self, stopped: &Stopped) -> Result<Vec<u8>, Errno> {
        let mut area = vec![0; self.size + MAGIC2_BYTES];
        let (state, magic2) = area.split_at_mut(self.size);
        stopped.vector_state(state)?;
        let used = read_u64(state, HEADER) & self.features;
        put(state, HEADER, &used.to_ne_bytes());
        let software_end = LEGACY_BYTES;
        if let Some(software) = state.get_mut(SOFTWARE..software_end) {
            software.fill(0);
        }
        put(state, SOFTWARE, &FP_XSTATE_MAGIC1.to_ne_bytes());
        put(state, SOFTWARE + 4, &((self.size + MAGIC2_BYTES) as u32).to_ne_bytes());
        put(state, SOFTWARE_FEATURES, &self.features.to_ne_bytes());
        put(state, SOFTWARE_SIZE, &(self.size as u32).to_ne_bytes());
        put(magic2, 0, &FP_XSTATE_MAGIC2.to_ne_bytes());
        Ok(area)
    }

    /// The state of a fresh thread, for `PTRACE_SETREGSET`.
    pub(super) fn initial(&self) -> Vec<u8> {
        let mut area = vec![0; self.host_size];
        put(&mut area, FCW, &INITIAL_FCW.to_ne_bytes());
        put(&mut area, MXCSR, &INITIAL_MXCSR.to_ne_bytes());
        area
    }

    /// Makes hostile bytes into an area for `PTRACE_SETREGSET`, by the rules of `rt_sigreturn`: without
    /// both magic numbers and a fitting size only the FXSAVE part counts; features that are neither
    /// saved nor known are initialised.
    pub(super) fn sanitize(&self, bytes: &[u8]) -> Vec<u8> {
        let mut area = vec![0; self.host_size];
        let wanted = self.wanted_features(bytes);
        let used = if wanted.is_some() { self.size } else { LEGACY_BYTES };
        let count = bytes.len().min(used);
        if let (Some(to), Some(from)) = (area.get_mut(..count), bytes.get(..count)) {
            to.copy_from_slice(from);
        }
        if let Some(rest) = area.get_mut(SOFTWARE..HEADER + HEADER_BYTES) {
            rest.fill(0);
        }
        let features = if bytes.len() < LEGACY_BYTES { 0 } else { wanted.unwrap_or(LEGACY_FEATURES) };
        put(&mut area, HEADER, &(features & self.features).to_ne_bytes());
        let mxcsr = read_u32(&area, MXCSR) & self.mxcsr_mask;
        put(&mut area, MXCSR, &mxcsr.to_ne_bytes());
        area
    }

    /// The features that the extended part of a frame holds; `None` if it has no valid one.
    fn wanted_features(&self, bytes: &[u8]) -> Option<u64> {
        let size = usize::try_from(read_u32(bytes, SOFTWARE_SIZE)).ok()?;
        let fits = (HEADER + HEADER_BYTES..=self.size).contains(&size) && bytes.len() >= size + MAGIC2_BYTES;
        let magic =
            read_u32(bytes, SOFTWARE) == FP_XSTATE_MAGIC1 && read_u32(bytes, size) == FP_XSTATE_MAGIC2;
        (fits && magic).then(|| read_u64(bytes, HEADER) & read_u64(bytes, SOFTWARE_FEATURES))
    }

    /// Whether an unmasked SSE exception is pending in the stub's state.
    pub(super) fn has_sse_exception(&self, stopped: &Stopped) -> bool {
        let mut area = vec![0; self.size];
        let mxcsr = match stopped.vector_state(&mut area) {
            Ok(_) => read_u32(&area, MXCSR),
            Err(_) => 0,
        };
        let (flags, masks) = (mxcsr & 0x3f, (mxcsr >> 7) & 0x3f);
        flags & !masks != 0
    }
}

/// Size of a standard-format area with these features (CPUID leaf 0xd: size and offset of each).
fn standard_size(features: u64) -> usize {
    (2..63).filter(|bit| features & (1 << bit) != 0).fold(HEADER + HEADER_BYTES, |size, bit| {
        let leaf = std::arch::x86_64::__cpuid_count(0xd, bit);
        size.max((leaf.eax + leaf.ebx) as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: VectorLayout =
        VectorLayout { size: 832, host_size: 832, features: 0b111, mxcsr_mask: 0xffff };

    #[test]
    fn hostile_bytes_become_acceptable() {
        let area = LAYOUT.sanitize(&[0xff; 900]);
        assert_eq!(area.len(), 832);
        assert_eq!(read_u64(&area, HEADER), LEGACY_FEATURES, "no valid magic: the legacy part only");
        assert_eq!(read_u32(&area, MXCSR), 0xffff);
        assert!(area[HEADER + 8..HEADER + HEADER_BYTES].iter().all(|&byte| byte == 0));
        assert!(area[HEADER + HEADER_BYTES..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn short_bytes_reset_everything() {
        assert_eq!(read_u64(&LAYOUT.sanitize(&[1; 100]), HEADER), 0);
    }

    #[test]
    fn a_valid_frame_keeps_its_known_features() {
        let mut frame = vec![7; 836];
        put(&mut frame, SOFTWARE, &FP_XSTATE_MAGIC1.to_ne_bytes());
        put(&mut frame, SOFTWARE_FEATURES, &u64::MAX.to_ne_bytes());
        put(&mut frame, SOFTWARE_SIZE, &832u32.to_ne_bytes());
        put(&mut frame, HEADER, &0xff06u64.to_ne_bytes());
        put(&mut frame, 832, &FP_XSTATE_MAGIC2.to_ne_bytes());
        let area = LAYOUT.sanitize(&frame);
        assert_eq!(read_u64(&area, HEADER), 0b110);
        assert_eq!(area[800], 7);
    }
}
