// The English text that a model reads where none is given.
#pragma once

#include <string_view>

namespace tq {

/// The opening of Jane Austen's "Northanger Abbey" (published 1817; public domain): chapter 1 and
/// the beginning of chapter 2, without their headings. ASCII, 15,475 bytes, 3,353 tokens of
/// SmolLM2; a paragraph is one line, an empty line follows it, and a dash is "--".
///
/// The words are those of `northangerabbey` in the R package janeaustenr 1.0.0 (Debian:
/// r-cran-janeaustenr 1.0.0-1), whose manual names Project Gutenberg's ebook 121 as its source. The
/// lines of a paragraph were joined with one space, indents of verse left out, and nothing else
/// was changed.
std::string_view default_passage();

}  // namespace tq
