//! A deserialiser over TOML values that knows where it is, so that every error carries the
//! dotted path of its key, and an unread key is an error that knows which keys are valid.
//!
//! serde hands a struct's field names to `deserialize_struct`: they are the one list of valid
//! keys that cannot go stale, and are remembered until the struct's keys have been visited.
//! Structs behind `#[serde(flatten)]` or `#[serde(untagged)]` are buffered by serde before they
//! are read, so unknown keys inside those are found only with `deny_unknown_fields`.

use std::fmt;
use std::path::Path;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use toml::{Table, Value};

use super::{ConfigError, suggest};

/// Deserialises `value`, refusing keys that nothing reads.
pub(super) fn deserialize<T: DeserializeOwned>(value: &Value) -> Result<T, Error> {
    T::deserialize(Located { value, path: String::new(), siblings: &[] })
}

/// An error and the dotted path of the value it is about.
#[derive(Debug)]
pub(super) struct Error {
    path: Option<String>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    UnknownKey { name: String, valid: Vec<&'static str> },
    Message(String),
}

impl Error {
    /// The path of the innermost value wins: outer values call this too on the way up.
    fn at(mut self, path: &str) -> Self {
        self.path.get_or_insert_with(|| path.to_owned());
        self
    }

    pub(super) fn in_file(self, file: &Path) -> ConfigError {
        let key = self.path.unwrap_or_default();
        match self.kind {
            Kind::UnknownKey { name, valid } => ConfigError::UnknownKey {
                path: file.to_owned(),
                key: join(&key, &name),
                suggestion: suggest(&name, &valid),
            },
            Kind::Message(message) => ConfigError::Value { path: file.to_owned(), key, message },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::UnknownKey { name, .. } => write!(formatter, "unknown key `{name}`"),
            Kind::Message(message) => formatter.write_str(message),
        }
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: None, kind: Kind::Message(message.to_string()) }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let kind = Kind::UnknownKey { name: field.to_owned(), valid: expected.to_vec() };
        Self { path: None, kind }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let suggestion = suggest(variant, expected).replace("valid keys", "valid values");
        Self::custom(format!("unknown value `{variant}`{suggestion}"))
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A value, its dotted path, and the names its struct accepts beside it.
struct Located<'a> {
    value: &'a Value,
    path: String,
    siblings: &'static [&'static str],
}

impl<'a> Located<'a> {
    fn visit<'de, V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::String(text) => visitor.visit_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(flag) => visitor.visit_bool(*flag),
            Value::Datetime(time) => visitor.visit_string(time.to_string()),
            Value::Array(list) => visitor.visit_seq(Entries { list, next: 0, path: &self.path }),
            Value::Table(table) => visitor.visit_map(Keys {
                entries: table.iter(),
                value: None,
                path: &self.path,
                fields,
            }),
        }
        .map_err(|error: Error| error.at(&self.path))
    }
}

impl<'de> de::Deserializer<'de> for Located<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit(&[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.visit(fields, visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let path = self.path.clone();
        match self.value {
            Value::String(name) => visitor.visit_enum(name.as_str().into_deserializer()),
            Value::Table(table) if table.len() == 1 => {
                visitor.visit_enum(Variant { table, path: &path })
            }
            other => Err(de::Error::custom(format!(
                "expected a name or a table with one key, found a {}",
                other.type_str()
            ))),
        }
        .map_err(|error: Error| error.at(&path))
    }

    /// serde's derive calls this for a key that no field has.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        let (parent, name) = self.path.rsplit_once('.').unwrap_or(("", &self.path));
        let kind = Kind::UnknownKey { name: name.to_owned(), valid: self.siblings.to_vec() };
        Err(Error { path: Some(parent.to_owned()), kind })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier
    }
}

struct Entries<'a> {
    list: &'a [Value],
    next: usize,
    path: &'a str,
}

impl<'de> de::SeqAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some(value) = self.list.get(self.next) else { return Ok(None) };
        let path = format!("{}[{}]", self.path, self.next);
        self.next += 1;
        seed.deserialize(Located { value, path, siblings: &[] }).map(Some)
    }
}

struct Keys<'a> {
    entries: toml::map::Iter<'a, String, Value>,
    value: Option<(&'a String, &'a Value)>,
    path: &'a str,
    fields: &'static [&'static str],
}

impl<'de> de::MapAccess<'de> for Keys<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        self.value = self.entries.next();
        let Some((key, _)) = self.value else { return Ok(None) };
        let key: StrDeserializer<'_, Error> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let (key, value) = self.value.take().expect("serde asks for a value after its key");
        seed.deserialize(Located { value, path: join(self.path, key), siblings: self.fields })
    }
}

/// `{ variant = value }`.
struct Variant<'a> {
    table: &'a Table,
    path: &'a str,
}

impl<'de, 'a> de::EnumAccess<'de> for Variant<'a> {
    type Error = Error;
    type Variant = Located<'a>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Located<'a>), Error> {
        let (key, value) = self.table.iter().next().expect("the table has one key");
        let name: StrDeserializer<'_, Error> = key.as_str().into_deserializer();
        Ok((seed.deserialize(name)?, Located { value, path: join(self.path, key), siblings: &[] }))
    }
}

impl<'de> de::VariantAccess<'de> for Located<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Err(Error::custom("takes no value: write the name alone").at(&self.path))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Error> {
        self.visit(&[], visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.visit(fields, visitor)
    }
}
