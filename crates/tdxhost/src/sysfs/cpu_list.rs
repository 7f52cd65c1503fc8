//! The kernel's list format for sets of CPUs.

use std::fmt::Write as _;

/// Formats ascending CPU numbers as Linux prints a CPU mask: `0-3,5,8-9`; empty for no CPU.
pub fn cpu_list(cpus: impl IntoIterator<Item = u32>) -> String {
    let mut text = String::new();
    let mut run: Option<(u32, u32)> = None;
    for cpu in cpus {
        run = match run {
            Some((first, last)) if last.checked_add(1) == Some(cpu) => Some((first, cpu)),
            ended => {
                push_run(&mut text, ended);
                Some((cpu, cpu))
            }
        };
    }
    push_run(&mut text, run);
    text
}

fn push_run(text: &mut String, run: Option<(u32, u32)>) {
    let Some((first, last)) = run else { return };
    if !text.is_empty() {
        text.push(',');
    }
    // Writing to a String cannot fail.
    let _ = if first == last { write!(text, "{first}") } else { write!(text, "{first}-{last}") };
}

#[cfg(test)]
mod tests {
    use super::cpu_list;

    #[test]
    fn runs_are_joined_and_single_cpus_stand_alone() {
        for (cpus, text) in [
            (&[][..], ""),
            (&[0], "0"),
            (&[0, 1], "0-1"),
            (&[0, 1, 2, 3], "0-3"),
            (&[0, 2, 4], "0,2,4"),
            (&[1, 2, 5, 8, 9], "1-2,5,8-9"),
            (&[u32::MAX - 1, u32::MAX], "4294967294-4294967295"),
        ] {
            assert_eq!(cpu_list(cpus.iter().copied()), text);
        }
    }
}
