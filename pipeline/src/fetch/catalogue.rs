//! What can be brought, from where, under which terms, and where it goes.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::FetchError;
use crate::config::{load_config, parse_config};

/// Sources by name, and groups of them.
#[derive(Clone, Debug, Deserialize)]
pub struct Catalogue {
    #[serde(default)]
    group: BTreeMap<String, Vec<String>>,
    source: Vec<Source>,
}

/// One collection or one set of weights.
#[derive(Clone, Debug, Deserialize)]
pub struct Source {
    /// What the user types.
    pub name: String,
    /// What it is, in one line.
    pub title: String,
    /// Licence, or `none stated`.
    pub license: String,
    /// Where the terms can be read.
    pub terms: String,
    /// Folder that the paths are below unless the user names another.
    pub folder: PathBuf,
    /// The files.
    pub file: Vec<RemoteFile>,
}

/// One file of a source.
#[derive(Clone, Debug, Deserialize)]
pub struct RemoteFile {
    /// Where it goes, below the source's folder.
    pub path: PathBuf,
    /// Addresses, tried in order.
    #[serde(default)]
    pub urls: Vec<String>,
    /// Where to ask for it, if there is no direct address.
    pub by_hand: Option<String>,
    /// Size in bytes, where it is known.
    pub bytes: Option<u64>,
    /// Size as published, where the exact one is unknown.
    pub size: Option<String>,
    /// Hexadecimal SHA-256, where it is known.
    pub sha256: Option<String>,
    /// Folder that the archive becomes, below the source's folder.
    pub unpack: Option<PathBuf>,
}

impl Catalogue {
    /// The image collections: `hqseg fetch`.
    ///
    /// # Errors
    /// [`FetchError::Catalogue`] or [`FetchError::Entry`]; not for the list that is shipped.
    pub fn data() -> Result<Self, FetchError> {
        let path = Path::new("pipeline/src/fetch/data.toml");
        Self::parse(path, parse_config(path, include_str!("data.toml"), &[])?)
    }

    /// The SAM and HQ-SAM checkpoints: `hqsam fetch`.
    ///
    /// # Errors
    /// As [`Catalogue::data`].
    pub fn weights() -> Result<Self, FetchError> {
        let path = Path::new("pipeline/src/fetch/weights.toml");
        Self::parse(path, parse_config(path, include_str!("weights.toml"), &[])?)
    }

    /// The list in a TOML file.
    ///
    /// # Errors
    /// [`FetchError::Catalogue`] where it cannot be read, [`FetchError::Entry`] for a path that
    /// leaves its folder, a file with neither address nor `by_hand`, a name given twice, a hash
    /// that is none, or a group with an unknown member.
    pub fn load(path: &Path) -> Result<Self, FetchError> {
        Self::parse(path, load_config(path, &[])?)
    }

    fn parse(path: &Path, catalogue: Self) -> Result<Self, FetchError> {
        let wrong = |name: &str, message: String| FetchError::Entry {
            catalogue: path.to_owned(),
            name: name.to_owned(),
            message,
        };
        for (index, source) in catalogue.source.iter().enumerate() {
            let twice = |other: &Source| plain(&other.name) == plain(&source.name);
            if catalogue.source[..index].iter().any(twice) {
                return Err(wrong(&source.name, "is listed twice".into()));
            }
            for file in &source.file {
                file.check().map_err(|message| wrong(&source.name, message))?;
            }
        }
        for (group, members) in &catalogue.group {
            if let Some(unknown) = members.iter().find(|name| catalogue.find(name).is_none()) {
                return Err(wrong(unknown, format!("group `{group}` names it, no source does")));
            }
        }
        Ok(catalogue)
    }

    /// All sources.
    #[must_use]
    pub fn sources(&self) -> &[Source] {
        &self.source
    }

    /// Groups and their members.
    #[must_use]
    pub fn groups(&self) -> &BTreeMap<String, Vec<String>> {
        &self.group
    }

    /// The sources that `names` stand for, groups resolved, none twice, in the given order.
    /// Upper case and hyphens do not matter.
    ///
    /// # Errors
    /// [`FetchError::UnknownSource`].
    pub fn select(&self, names: &[String]) -> Result<Vec<&Source>, FetchError> {
        let mut selected: Vec<&Source> = Vec::new();
        for name in names {
            let group = self.group.iter().find(|(group, _)| plain(group) == plain(name));
            let single = [name.clone()];
            for member in group.map_or(&single[..], |(_, members)| members) {
                let source = self.find(member).ok_or_else(|| self.unknown(name))?;
                if !selected.iter().any(|other| other.name == source.name) {
                    selected.push(source);
                }
            }
        }
        Ok(selected)
    }

    fn find(&self, name: &str) -> Option<&Source> {
        self.source.iter().find(|source| plain(&source.name) == plain(name))
    }

    fn unknown(&self, name: &str) -> FetchError {
        let names = || {
            let groups = self.group.keys().map(String::as_str);
            groups.chain(self.source.iter().map(|source| source.name.as_str()))
        };
        let nearest = names()
            .map(|known| (strsim::jaro_winkler(&plain(name), &plain(known)), known))
            .max_by(|left, right| left.0.total_cmp(&right.0));
        let suggestion = match nearest {
            // Below 0.8 the nearest name has little to do with what was typed.
            Some((likeness, known)) if likeness >= 0.8 => format!("; did you mean `{known}`?"),
            _ => format!("; there are {}", names().collect::<Vec<_>>().join(", ")),
        };
        FetchError::UnknownSource { name: name.to_owned(), suggestion }
    }
}

impl RemoteFile {
    fn check(&self) -> Result<(), String> {
        for path in [Some(&self.path), self.unpack.as_ref()].into_iter().flatten() {
            let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
            if !inside || path.as_os_str().is_empty() {
                return Err(format!("`{}` is no plain relative path", path.display()));
            }
        }
        if self.urls.is_empty() == self.by_hand.is_none() {
            let path = self.path.display();
            return Err(format!("`{path}` needs either `urls` or `by_hand`"));
        }
        match &self.sha256 {
            Some(sha256) if !is_sha256(sha256) => {
                Err(format!("`{sha256}` is no SHA-256 in lower-case hexadecimal"))
            }
            _ => Ok(()),
        }
    }

    /// Its size for people: exact, as published, or `size unknown`.
    #[must_use]
    pub fn size_text(&self) -> String {
        match (self.bytes, &self.size) {
            (Some(bytes), _) => indicatif::DecimalBytes(bytes).to_string(),
            (None, Some(size)) => size.clone(),
            (None, None) => "size unknown".into(),
        }
    }
}

/// Whether `text` is 64 lower-case hexadecimal digits.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn plain(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Catalogue, FetchError> {
        let path = Path::new("c.toml");
        Catalogue::parse(path, parse_config(path, text, &[])?)
    }

    fn names(catalogue: &Catalogue, names: &[&str]) -> Vec<String> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        catalogue.select(&names).unwrap().iter().map(|source| source.name.clone()).collect()
    }

    #[test]
    fn the_shipped_lists_are_sound() {
        let (data, weights) = (Catalogue::data().unwrap(), Catalogue::weights().unwrap());
        assert_eq!(names(&data, &["ECSSD", "fss-1000"]), ["ecssd", "fss_1000"]);
        assert_eq!(names(&data, &["hqseg44k", "hqseg44k_dis5k"]).len(), 3);
        assert_eq!(names(&data, &["hqseg44k_raw"]).len(), 8);
        for name in ["vit_b", "vit_l", "vit_h", "vit_tiny"] {
            let source = weights.find(name).unwrap();
            assert!(source.file[0].sha256.is_some() && source.file[0].bytes.is_some(), "{name}");
        }
    }

    #[test]
    fn weights_go_where_the_training_configurations_look() {
        let weights = Catalogue::weights().unwrap();
        for (name, config) in [
            ("vit_b", include_str!("../../../configs/hqsam_b.toml")),
            ("vit_l", include_str!("../../../configs/hqsam_l.toml")),
            ("vit_h", include_str!("../../../configs/hqsam_h.toml")),
            ("vit_tiny", include_str!("../../../configs/hqsam_tiny.toml")),
        ] {
            let source = weights.find(name).unwrap();
            let path = source.folder.join(&source.file[0].path);
            let line = format!("checkpoint = \"{}\"", path.display());
            assert!(config.lines().any(|found| found == line), "{line}");
        }
    }

    #[test]
    fn collections_go_where_the_build_configurations_look() {
        let data = Catalogue::data().unwrap();
        for (group, config) in [
            ("hqseg44k", include_str!("../../../configs/hqseg44k_repackaged.toml")),
            ("hqseg44k_raw", include_str!("../../../configs/hqseg44k.toml")),
        ] {
            let roots: Vec<PathBuf> = config
                .lines()
                .filter_map(|line| line.strip_prefix("root = \""))
                .map(|rest| PathBuf::from(rest.trim_end_matches('"')))
                .collect();
            let folders: Vec<PathBuf> = data
                .select(&[group.to_owned()])
                .unwrap()
                .iter()
                .flat_map(|source| source.file.iter().map(move |file| (source, file)))
                .map(|(source, file)| source.folder.join(file.unpack.as_ref().unwrap()))
                .collect();
            let together =
                |root: &Path, folder: &Path| root.starts_with(folder) || folder.starts_with(root);
            for root in &roots {
                let filled = folders.iter().any(|folder| together(root, folder));
                assert!(filled, "nothing of {group} goes to {}", root.display());
            }
            for folder in &folders {
                let read = roots.iter().any(|root| together(root, folder));
                assert!(read, "no source of {group} reads {}", folder.display());
            }
        }
    }

    #[test]
    fn unknown_names_are_answered_with_known_ones() {
        let message = |name: &str| {
            Catalogue::data().unwrap().select(&[name.to_owned()]).unwrap_err().to_string()
        };
        assert_eq!(message("ecsd"), "no source `ecsd`; did you mean `ecssd`?");
        assert!(message("coco").contains("; there are hqseg44k, "), "{}", message("coco"));
    }

    #[test]
    fn entries_that_cannot_work_are_refused() {
        let entry = |file: &str| {
            format!(
                "[[source]]\nname='a'\ntitle=''\nlicense=''\nterms=''\nfolder='d'\n\
                 [[source.file]]\n{file}\n"
            )
        };
        for (text, expected) in [
            (entry("path='../x'\nurls=['u']"), "no plain relative path"),
            (entry("path='/x'\nurls=['u']"), "no plain relative path"),
            (entry("path='x'"), "either `urls` or `by_hand`"),
            (entry("path='x'\nurls=['u']\nby_hand='h'"), "either `urls` or `by_hand`"),
            (entry("path='x'\nurls=['u']\nsha256='AB'"), "no SHA-256"),
            (entry("path='x'\nurls=['u']\nsha='1'"), "unknown key"),
            (entry("path='x'\nurls=['u']") + "[group]\ng=['b']", "group `g` names it"),
            (entry("path='x'\nurls=['u']").repeat(2), "listed twice"),
        ] {
            let message = parse(&text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
