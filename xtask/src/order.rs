//! In which direction our code may depend on our code.
//!
//! Two orders: that of the crates, stated here, and that of core's modules, which is the order
//! of the lines in `crates/core/src/lib.rs`: no module imports one that is listed after it.
//! Tests are free, and so is what a comment names.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

/// Each crate, and which of ours it may use outside of tests.
const CRATES: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("stores", &["core"]),
    ("sqlite", &["core"]),
    ("salvage", &["core"]),
    ("guard", &[]),
    ("postgres", &["core"]),
    ("migrate", &["core", "sqlite", "postgres"]),
    ("sim", &["core", "stores", "sqlite"]),
    ("test-support", &["core", "postgres"]),
    ("lifeboat", &["core", "stores", "sqlite", "salvage", "postgres", "migrate"]),
];

/// One line for each wrong arrow.
pub(crate) fn wrong_arrows(root: &Path) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let mut folders: Vec<_> = std::fs::read_dir(root.join("crates"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    folders.sort();
    for name in folders {
        let path = root.join("crates").join(&name).join("Cargo.toml");
        let manifest = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        wrong.extend(wrong_crates(&name, &manifest));
    }
    let core = root.join("crates/core/src");
    let order = modules(&std::fs::read_to_string(core.join("lib.rs"))?);
    for file in crate::tidy::rust_files(&core)? {
        let inside = file.strip_prefix(&core)?;
        if let Some(module) = module_of(inside) {
            let text = std::fs::read_to_string(&file)?;
            wrong.extend(wrong_modules(&order, &module, &inside.to_string_lossy(), &text));
        }
    }
    Ok(wrong)
}

/// The arrows of a crate that its line of [`CRATES`] does not allow.
fn wrong_crates(name: &str, manifest: &str) -> Vec<String> {
    let Some((_, allowed)) = CRATES.iter().find(|(known, _)| *known == name) else {
        return vec![format!("crates/{name}: not in the list of crates in xtask/src/order.rs")];
    };
    let mut section = "";
    let mut wrong = Vec::new();
    for line in manifest.lines() {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
        }
        if let Some(rest) = line.strip_prefix("lifeboat-")
            && matches!(section, "dependencies" | "build-dependencies")
        {
            let used = rest.split(['.', ' ', '=']).next().unwrap_or(rest);
            if !allowed.contains(&used) {
                wrong.push(format!("crates/{name} depends on crates/{used}, and must not"));
            }
        }
    }
    wrong
}

/// Core's modules in the order of their lines, each with its place.
fn modules(lib: &str) -> BTreeMap<String, usize> {
    let names = lib.lines().filter_map(|line| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line.strip_prefix("mod ")?.strip_suffix(';').map(str::to_owned)
    });
    names.zip(0..).collect()
}

/// The module to which a file of core belongs; none for `lib.rs`.
fn module_of(inside: &Path) -> Option<String> {
    let first = inside.iter().next()?.to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (name != "lib").then(|| name.to_owned())
}

/// The lines of a file that import a module which is listed after its own.
fn wrong_modules(
    order: &BTreeMap<String, usize>,
    own: &str,
    file: &str,
    text: &str,
) -> Vec<String> {
    let Some(place) = order.get(own) else {
        return vec![format!("crates/core/src/{file}: no line in lib.rs names its module")];
    };
    let mut wrong = Vec::new();
    // The test modules stand at the end of a file, and may use everything.
    let code = text.lines().take_while(|line| line.trim_start() != "#[cfg(test)]");
    for (number, line) in (1..).zip(code) {
        let code = line.split("//").next().unwrap_or(line);
        for after in code.split("crate::").skip(1) {
            let name: String =
                after.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            if order.get(&name).is_some_and(|used| used > place) {
                wrong.push(format!(
                    "crates/core/src/{file}:{number}: {own} imports {name}, which comes after it"
                ));
            }
        }
        if code.contains("crate::{") {
            wrong.push(format!(
                "crates/core/src/{file}:{number}: write one `use crate::module` for each module"
            ));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_arrow_of_ours_is_wrong() {
        assert_eq!(wrong_arrows(&crate::root()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn an_arrow_against_the_order_of_crates_is_found() {
        let manifest = "[dependencies]\nlifeboat-core.workspace = true\nlifeboat-sqlite = \"1\"\n\
                        [dev-dependencies]\nlifeboat-stores.workspace = true\n";
        assert_eq!(wrong_crates("stores", manifest).len(), 1);
        assert_eq!(wrong_crates("sim", manifest).len(), 0);
        assert_eq!(wrong_crates("core", manifest).len(), 2);
        assert_eq!(wrong_crates("unheard-of", manifest).len(), 1);
    }

    #[test]
    fn an_arrow_against_the_order_of_modules_is_found() {
        let order =
            modules("pub mod error;\nmod event;\npub mod store;\n\npub use error::Error;\n");
        assert_eq!(order.len(), 3);
        let text = "use crate::error::Error;\nuse crate::store::Store; // why\n\
                    // crate::store\n#[cfg(test)]\nmod tests { use crate::store::Put; }\n";
        let wrong = wrong_modules(&order, "event", "event.rs", text);
        assert_eq!(
            wrong,
            ["crates/core/src/event.rs:2: event imports store, which comes after it"]
        );
        assert_eq!(wrong_modules(&order, "store", "store.rs", text), Vec::<String>::new());
        assert_eq!(wrong_modules(&order, "lost", "lost.rs", "").len(), 1);
        assert_eq!(wrong_modules(&order, "store", "store/a.rs", "use crate::{error};").len(), 1);
    }

    #[test]
    fn a_file_in_a_folder_belongs_to_the_folder() {
        assert_eq!(module_of(Path::new("pipeline/gzip.rs")).as_deref(), Some("pipeline"));
        assert_eq!(module_of(Path::new("store.rs")).as_deref(), Some("store"));
        assert_eq!(module_of(Path::new("lib.rs")), None);
    }
}
