//! `--set a.b=c`: one value of a TOML table replaced from the command line.

use toml::{Table, Value};

use super::ConfigError;

/// Applies one `dotted.key=value` argument; tables on the way are created where absent.
pub(super) fn apply(table: &mut Table, argument: &str) -> Result<(), ConfigError> {
    let refuse = |message: String| ConfigError::Override { argument: argument.to_owned(), message };
    let (key, value) = argument
        .split_once('=')
        .ok_or_else(|| refuse("expected key=value, for example output=data/set".to_owned()))?;
    let segments: Vec<&str> = key.trim().split('.').collect();
    if segments.iter().any(|segment| segment.is_empty()) {
        return Err(refuse(format!("`{key}` is not a dotted key")));
    }
    let (last, parents) = segments.split_last().expect("split always yields one segment");
    let mut place = table;
    let mut parents = parents.iter().peekable();
    while let Some(segment) = parents.next() {
        let mut next =
            place.entry((*segment).to_owned()).or_insert_with(|| Value::Table(Table::new()));
        while let Value::Array(list) = next {
            let wanted = parents
                .next()
                .ok_or_else(|| refuse(format!("`{segment}` is a list: say which entry")))?;
            next = entry(list, wanted)
                .ok_or_else(|| refuse(format!("the list `{segment}` has no entry `{wanted}`")))?;
        }
        place = match next {
            Value::Table(table) => table,
            other => {
                return Err(refuse(format!(
                    "`{segment}` is a {}, it has no keys",
                    other.type_str()
                )));
            }
        };
    }
    place.insert((*last).to_owned(), parse(value.trim()));
    Ok(())
}

/// The list entry at an index, or the one whose `name` is `wanted`.
fn entry<'a>(list: &'a mut [Value], wanted: &str) -> Option<&'a mut Value> {
    let index = match wanted.parse::<usize>() {
        Ok(index) => index,
        Err(_) => list
            .iter()
            .position(|value| value.get("name").and_then(Value::as_str) == Some(wanted))?,
    };
    list.get_mut(index)
}

/// A TOML value, or the text itself where it is none.
fn parse(text: &str) -> Value {
    toml::from_str::<Table>(&format!("value = {text}"))
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}
