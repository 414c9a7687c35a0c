//! Columns of text, laid out as Go's `tabwriter` does for runc's `list`.

/// Pads every cell but the last of a row to its column's widest plus `padding`, and to `least`.
pub fn aligned<const N: usize>(rows: &[[String; N]], least: usize, padding: usize) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = least.max(cell.chars().count() + padding).max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:<width$}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["A", "B"], ["longer", "x"]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(&rows, 4, 1), "A      B\nlonger x\n");
    }
}
