//! What a panic says, in one line.

use std::any::Any;

/// The first line of a caught panic's message.
///
/// tch panics with the `Debug` text of libtorch's error, whose line ends are written `\n` and whose
/// first line alone is for users: a stack trace of several KB follows it.
#[must_use]
pub fn panic_line(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown panic");
    let text = match text.split_once("Torch(\"") {
        Some((_, message)) => message.trim_end_matches("\")"),
        None => text,
    };
    let ends = ["\n", r"\n", "Exception raised from"];
    let end = ends.iter().filter_map(|end| text.find(end)).min().unwrap_or(text.len());
    text[..end].trim_end().replace(r#"\""#, "\"")
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn a_failed_operation_is_told_in_libtorchs_first_line() {
        let panic = catch_unwind(|| Tensor::zeros([2], (Kind::Float, Device::Cpu)).view([3]));
        let panic = panic.expect_err("two values are not three");
        let whole = panic.downcast_ref::<String>().unwrap();
        assert!(whole.len() > 500 && whole.lines().count() == 1, "{whole}");
        assert_eq!(panic_line(&*panic), "shape '[3]' is invalid for input of size 2");

        // More than any address space holds.
        let panic = catch_unwind(|| Tensor::zeros([1 << 60], (Kind::Float, Device::Cpu)));
        let line = panic_line(&*panic.expect_err("no machine has this memory"));
        assert!(line.contains("allocate") && !line.contains("frame #0"), "{line}");
        assert!(line.len() < 250 && !line.contains(r"\n"), "{line}");
    }

    #[test]
    fn other_panics_keep_their_first_line() {
        let line = |panic: Box<dyn Any + Send>| panic_line(&*panic);
        assert_eq!(line(Box::new("index 3\nnote")), "index 3");
        assert_eq!(line(Box::new(String::from("no line end"))), "no line end");
        assert_eq!(line(Box::new(r#"x: Torch("a \"name\" is missing")"#)), "a \"name\" is missing");
        assert_eq!(line(Box::new(7)), "unknown panic");
    }
}
