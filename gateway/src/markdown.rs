//! Descriptions, which people write in Markdown.

use pulldown_cmark::{CowStr, Event, Parser, Tag, TagEnd};

/// Markdown as HTML; raw HTML in it is shown as text, and links and pictures are of the web or of nowhere.
pub fn html(markdown: &str) -> String {
    written(Parser::new(markdown).map(tamed))
}

/// The same without pictures, whose texts stand in their places: nothing is fetched by whoever reads it.
pub fn html_without_pictures(markdown: &str) -> String {
    let is_picture = |event: &Event<'_>| {
        matches!(
            event,
            Event::Start(Tag::Image { .. }) | Event::End(TagEnd::Image)
        )
    };
    written(
        Parser::new(markdown)
            .filter(|event| !is_picture(event))
            .map(tamed),
    )
}

fn written<'m>(events: impl Iterator<Item = Event<'m>>) -> String {
    let mut out = String::new();
    pulldown_cmark::html::push_html(&mut out, events);
    out
}

fn tamed(mut event: Event<'_>) -> Event<'_> {
    match &mut event {
        Event::Html(text) | Event::InlineHtml(text) => {
            return Event::Text(std::mem::replace(text, CowStr::Borrowed("")));
        }
        Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. })
            if !is_web(dest_url) =>
        {
            *dest_url = CowStr::Borrowed("#");
        }
        _ => {}
    }
    event
}

fn is_web(url: &str) -> bool {
    let url = url.trim().to_ascii_lowercase();
    ["http://", "https://", "mailto:", "#"]
        .iter()
        .any(|start| url.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::{html, html_without_pictures};

    #[test]
    fn html_is_text_and_links_are_of_the_web() {
        for (markdown, wanted) in [
            (
                "a <script>x</script>",
                "<p>a &lt;script&gt;x&lt;/script&gt;</p>\n",
            ),
            ("[a](https://b)", "<p><a href=\"https://b\">a</a></p>\n"),
            ("[a](javascript:b)", "<p><a href=\"#\">a</a></p>\n"),
            (
                "![a](https://b)",
                "<p><img src=\"https://b\" alt=\"a\" /></p>\n",
            ),
            ("![a](data:b)", "<p><img src=\"#\" alt=\"a\" /></p>\n"),
        ] {
            assert_eq!(html(markdown), wanted, "{markdown}");
        }
    }

    #[test]
    fn pictures_are_their_texts_where_nothing_is_fetched() {
        for (markdown, wanted) in [
            ("x ![a *b*](https://c \"t\") y", "<p>x a <em>b</em> y</p>\n"),
            (
                "[![a](/b)](https://c)",
                "<p><a href=\"https://c\">a</a></p>\n",
            ),
            ("![](/-/download/a/b)", "<p></p>\n"),
        ] {
            assert_eq!(html_without_pictures(markdown), wanted, "{markdown}");
        }
    }
}
