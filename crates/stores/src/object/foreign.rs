//! Keys of others in a list: `a//b`, `./a`. No object of ours can be called so, and the library
//! refuses a whole page of a list for one of them. They are taken out before it reads the page.

use bytes::Bytes;

/// What lists of objects are made of: S3 and Google, and Azure.
const ELEMENTS: [(&str, &str, &str); 2] =
    [("<Contents>", "</Contents>", "<Key>"), ("<Blob>", "</Blob>", "<Name>")];

/// The page without what cannot be ours.
pub(super) fn without(page: Bytes) -> Bytes {
    let Ok(text) = std::str::from_utf8(&page) else { return page };
    // A page has elements of one kind. To look for the other one behind each of them would go
    // through the whole page every time.
    let kind = ELEMENTS.iter().find(|(begin, _, _)| text.contains(begin));
    let Some(&(begin, end_mark, name)) = kind else { return page };
    let mut kept = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(begin) {
        let Some(length) = rest[start..].find(end_mark) else { break };
        let end = start + length + end_mark.len();
        if is_foreign(&rest[start..end], name) {
            kept.push_str(&rest[..start]);
        } else {
            kept.push_str(&rest[..end]);
        }
        rest = &rest[end..];
    }
    match kept.len() + rest.len() == text.len() {
        true => page,
        false => {
            kept.push_str(rest);
            kept.into()
        }
    }
}

fn is_foreign(element: &str, name: &str) -> bool {
    let name = element.find(name).and_then(|start| element[start + name.len()..].split('<').next());
    let Some(name) = name else { return false };
    let name = name.strip_suffix('/').unwrap_or(name);
    name.split('/').any(|part| part.is_empty() || part == "." || part == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_be_ours_is_taken_out() {
        let of = |keys: &[&str]| {
            let all = keys.iter().map(|key| format!("<Contents><Key>{key}</Key></Contents>"));
            format!("<List xmlns=\"http://x//y\">{}<End/></List>", all.collect::<String>())
        };
        let page = of(&["a/b", "a//b", "./a", "a/../b", "/a", "a/b/", "a/.b", "..c"]);
        let kept = without(Bytes::from(page));
        assert_eq!(kept, of(&["a/b", "a/b/", "a/.b", "..c"]));
        let azure = "<Blob><Name>a//b</Name></Blob><Blob><Name>c</Name></Blob>";
        assert_eq!(without(Bytes::from(azure)), "<Blob><Name>c</Name></Blob>");
    }
}
