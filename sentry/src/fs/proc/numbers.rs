//! Sets of processors as the kernel writes them: hexadecimal masks and lists of ranges.

/// The lowest `count` bits.
pub const fn mask_of(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// A mask of processors as the kernel prints it: as many digits as there are processors, in groups of 32 bits.
pub fn hexadecimal_mask(mask: u64, processors: usize) -> String {
    if processors > 32 {
        let width = processors.min(64).div_ceil(4) - 8;
        return format!("{:0width$x},{:08x}", mask >> 32, mask & 0xffff_ffff);
    }
    let width = processors.max(1).div_ceil(4);
    format!("{mask:0width$x}")
}

/// Numbers of set bits as ranges: `0-2,5`.
pub fn number_list(mask: u64) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for bit in (0..64).filter(|bit| mask >> bit & 1 != 0) {
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == bit => *end = bit,
            _ => ranges.push((bit, bit)),
        }
    }
    let text = |(start, end): &(u32, u32)| {
        if start == end { start.to_string() } else { format!("{start}-{end}") }
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_masks_are_printed_as_the_kernel_does() {
        assert_eq!(hexadecimal_mask(mask_of(2), 2), "3");
        assert_eq!(hexadecimal_mask(mask_of(8), 8), "ff");
        assert_eq!(hexadecimal_mask(1, 16), "0001");
        assert_eq!(hexadecimal_mask(mask_of(64), 64), "ffffffff,ffffffff");
        assert_eq!(number_list(0b10_0111), "0-2,5");
        assert_eq!(number_list(0), "");
    }
}
