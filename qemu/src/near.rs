//! Which name was meant.

/// The name nearest to `text`, if it is near: a third of its letters may be wrong.
pub(crate) fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (distance(text, name), name))
        .filter(|(distance, name)| *distance * 3 <= name.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Letters to insert, to delete or to change until one is the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for letter in one.chars() {
        let mut corner = row[0];
        row[0] += 1;
        let mut left = row[0];
        for (cell, known) in row.iter_mut().skip(1).zip(&other) {
            let above = *cell;
            *cell = (above + 1).min(left + 1).min(corner + usize::from(letter != *known));
            (left, corner) = (*cell, above);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_changed_letters() {
        for (one, other, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "abc", 0),
            ("abc", "axc", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn only_a_near_name_is_meant() {
        let names = ["platform", "profile", "seed"];
        assert_eq!(nearest("plattform", names), Some("platform"));
        assert_eq!(nearest("see", names), Some("seed"));
        assert_eq!(nearest("entirely", names), None);
        assert_eq!(nearest("", names), None);
    }
}
