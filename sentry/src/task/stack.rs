//! The stack a program starts with: strings, auxiliary vector, environment, arguments (System V ABI for x86-64, "Initial
//! stack and register state").

use abi::errno::{E2BIG, SysResult};

/// Parts of a new program's stack.
pub(super) struct InitialStack<'a> {
    pub(super) arguments: &'a [Vec<u8>],
    pub(super) environment: &'a [Vec<u8>],
    /// Path of the program, for `AT_EXECFN`.
    pub(super) file_name: &'a [u8],
    /// `AT_RANDOM`.
    pub(super) random: [u8; 16],
    /// Auxiliary vector without the entries that point into the stack, and without its end.
    pub(super) auxiliary: Vec<(u64, u64)>,
}

/// The bytes, and where they go.
#[derive(Debug)]
pub(super) struct BuiltStack {
    /// The stack pointer: the address of the first byte.
    pub(super) pointer: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) arguments: (u64, u64),
    pub(super) environment: (u64, u64),
    /// The auxiliary vector's bytes.
    pub(super) auxiliary: Vec<u8>,
}

const AT_NULL: u64 = 0;
const AT_PLATFORM: u64 = 15;
const AT_RANDOM: u64 = 25;
const AT_EXECFN: u64 = 31;

impl InitialStack<'_> {
    /// Lays the stack out below `top`, with at most `limit` bytes.
    ///
    /// # Errors
    /// `E2BIG`.
    pub(super) fn build(&self, top: u64, limit: u64) -> SysResult<BuiltStack> {
        // Strings, from the top down: file name, environment, arguments, platform, random bytes.
        let mut strings = Vec::new();
        let place = |string: &[u8], strings: &mut Vec<u8>| {
            let offset = strings.len() as u64;
            strings.extend_from_slice(string);
            strings.push(0);
            offset
        };
        let random = strings.len() as u64;
        strings.extend_from_slice(&self.random);
        let platform = place(b"x86_64", &mut strings);
        let arguments: Vec<u64> = self.arguments.iter().map(|s| place(s, &mut strings)).collect();
        let arguments_end = strings.len() as u64;
        let environment: Vec<u64> = self.environment.iter().map(|s| place(s, &mut strings)).collect();
        let environment_end = strings.len() as u64;
        let file_name = place(self.file_name, &mut strings);
        strings.resize(strings.len().next_multiple_of(16), 0);
        // Linux leaves a null pointer at the very top.
        let base = top - 16 - strings.len() as u64;

        let mut auxiliary = self.auxiliary.clone();
        auxiliary.push((AT_RANDOM, base + random));
        auxiliary.push((AT_PLATFORM, base + platform));
        auxiliary.push((AT_EXECFN, base + file_name));
        auxiliary.push((AT_NULL, 0));

        let mut words = vec![self.arguments.len() as u64];
        words.extend(arguments.iter().map(|offset| base + offset));
        words.push(0);
        words.extend(environment.iter().map(|offset| base + offset));
        words.push(0);
        let auxiliary_start = words.len() * 8;
        words.extend(auxiliary.iter().flat_map(|(kind, value)| [*kind, *value]));

        let size = (words.len() * 8 + strings.len() + 16) as u64;
        if size + 4096 > limit {
            return Err(E2BIG);
        }
        let pointer = (base - words.len() as u64 * 8) & !15;
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let auxiliary = bytes.get(auxiliary_start..).unwrap_or_default().to_vec();
        bytes.resize(usize::try_from(base - pointer).map_err(|_| E2BIG)?, 0);
        bytes.extend_from_slice(&strings);
        let first = |offsets: &[u64], end: u64| base + offsets.first().copied().unwrap_or(end);
        Ok(BuiltStack {
            pointer,
            bytes,
            arguments: (first(&arguments, arguments_end), base + arguments_end),
            environment: (first(&environment, environment_end), base + environment_end),
            auxiliary,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(stack: &BuiltStack, index: usize) -> u64 {
        u64::from_le_bytes(stack.bytes[index * 8..index * 8 + 8].try_into().expect("eight bytes"))
    }

    fn string(stack: &BuiltStack, address: u64) -> &[u8] {
        let start = usize::try_from(address - stack.pointer).expect("in the stack");
        let rest = &stack.bytes[start..];
        &rest[..rest.iter().position(|byte| *byte == 0).expect("terminated")]
    }

    #[test]
    fn arguments_and_environment_are_where_the_abi_says() {
        let (arguments, environment) = (vec![b"ls".to_vec(), b"-l".to_vec()], vec![b"A=1".to_vec()]);
        let stack = InitialStack {
            arguments: &arguments,
            environment: &environment,
            file_name: b"/bin/ls",
            random: [7; 16],
            auxiliary: vec![(6, 4096)],
        };
        let built = stack.build(0x7fff_0000_0000, 1 << 20).expect("fits");
        assert_eq!(built.pointer % 16, 0);
        assert_eq!(word(&built, 0), 2);
        assert_eq!(string(&built, word(&built, 1)), b"ls");
        assert_eq!(string(&built, word(&built, 2)), b"-l");
        assert_eq!(word(&built, 3), 0);
        assert_eq!(string(&built, word(&built, 4)), b"A=1");
        assert_eq!((word(&built, 5), word(&built, 6), word(&built, 7)), (0, 6, 4096));
        assert!(built.pointer + built.bytes.len() as u64 <= 0x7fff_0000_0000);
    }

    #[test]
    fn too_long_arguments_are_refused() {
        let arguments = vec![vec![b'a'; 4096]; 4];
        let stack = InitialStack {
            arguments: &arguments,
            environment: &[],
            file_name: b"x",
            random: [0; 16],
            auxiliary: Vec::new(),
        };
        assert_eq!(stack.build(0x7fff_0000_0000, 8192).err(), Some(E2BIG));
    }
}
