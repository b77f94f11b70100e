"""Strings that tokenizers disagree on: scripts, code, emoji, odd white space, combining marks, special tokens."""

WORDS = [
    "", " ", "  ", "a", " a", "a ", "  a  ", "Hello, world!", "Hello  world", "Hello\tworld", "Hello\nworld",
    "The quick brown fox jumps over the lazy dog.", "It's John's book; they've said we'll go, I'd'nt.",
    "IT'S JOHN'S BOOK; THEY'VE SAID WE'LL", "'s 't 're 've 'm 'll 'd 'S 'T 'RE", "don\u2019t", "can't've", "''quoted''", "'\u017f '\u017fs",
    "e.g. i.e. etc...", "well-known—dash–en -- ---", "Mr. Smith & Co. (est. 1999) [sic] {x}", "100% of $5.00 = €4,56",
    "a_b_c __init__ snake_case CamelCaseWord mixedCASE ABCdef", "HTTPServer2XMLv3", "ﬁne ﬂower eﬃcient ﬆ",
]
NUMBERS = [
    "0", "1", "12", "123", "1234", "12345", "123456", "1234567890", "3.14159", "1,234,567.89", "-42", "+7", "1e10", "0x1F",
    "2024-02-29T12:34:56Z", "٠١٢٣٤٥٦٧٨٩", "१२३", "½ ¼ ¾", "x² + y³ = z⁴", "Ⅷ Ⅻ ⅷ", "①②③ ❶", "１２３ＡＢＣ", "a1b2c3", "12 345 678", "一二三", "𝟘𝟙𝟚",
]
SCRIPTS = [
    "Ça va? Où êtes-vous? Garçon naïf", "Straße über Größe ẞ", "¿Qué pasó? ¡Olé, señor!", "Zażółć gęślą jaźń", "İstanbul ıldır IĞDIR",
    "Привет, как дела? Ёлка", "Γειά σου Κόσμε ΣΊΣΥΦΟΣ", "שלום עולם", "שָׁלוֹם", "مرحبا بالعالم", "مَرْحَبًا", "سلام دنیا\u200cها",
    "नमस्ते दुनिया", "क्षत्रिय", "বাংলা ভাষা", "தமிழ் மொழி", "ภาษาไทยไม่มีช่องว่าง", "ລາວ", "မြန်မာ", "ខ្មែរ", "བོད་ཡིག", "ქართული", "Հայերեն",
    "አማርኛ", "ᏣᎳᎩ", "ᠮᠣᠩᠭᠣᠯ\u180eᠪ", "你好，世界！", "今天天气很好。我们去公园吧", "繁體中文測試", "日本語のテキスト、カタカナとひらがな", "ｶﾀｶﾅ ﾊﾝｶｸ", "한국어 텍스트입니다",
    "한국어", "Việt Nam đẹp", "Tiếng Việt", "漢字かな交じり文123abc", "、。「」『』・ー〆々〇", "𠮷野家 𩸽", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒯𝑒𝓍𝓉",
    "𐍈𐌰𐌹", "Ὀδυσσεύς ᾳ ῼ", "Ǆ ǅ ǆ", "ŉ ǰ ΐ", "ʼn", "ꙮ", "ⓐⓑⓒ 🅰🅱", "ꭰ",
]
CODE = [
    "def f(x):\n    return x ** 2  # square\n", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}\n", "if x!=y&&z||w: pass",
    "#include <vector>\n#define X(a) #a\n", "SELECT * FROM t WHERE a='b''c';", "<div class=\"x\">&nbsp;</div>", "print(f\"{x:>10.3f}\")",
    "std::unordered_map<int, std::vector<std::string>> m;", "fn main() -> Result<(), Box<dyn Error>> { Ok(()) }",
    "{\"a\": [1, 2.5, null], \"b\": {\"c\": true}}", "C:\\Users\\x\\file.txt /usr/bin/env", "https://example.com/a?b=c&d=%20#e",
    "user.name+tag@example.co.uk", "\\alpha_{i}^{2} \\frac{a}{b} $x$", "    four\n        eight\n  two", "\t\ttabs\n\t", "a=b;c=d;\r\ne=f;\r\n",
    "x = [\n]\n\n\n\ny", "// comment\n/* block */", "```python\nprint()\n```", "$ ls -la | grep '^d' > out.txt 2>&1", "#!/bin/sh\nset -eu\n",
    "a->b->c::d.e()", "!!! ??? ... ,,, ;;; :::", "~`@#$%^&*()_+-={}[]|\\:\";'<>?,./", "==== ---- **** ____", "<<<>>>", "a/b//c///",
]
EMOJI = [
    "😀", "Hi 😀!", "👍🏽", "👩‍👩‍👧‍👦 family", "🇩🇪🇫🇷", "❤️ ❤", "🏳️‍🌈", "1️⃣2️⃣", "👨🏿‍💻 codes", "🤷‍♀️", "☺︎☺️", "😀😃😄😁", "a😀b😀c", "🫠🫡", "🧑‍🚀",
    "♠♣♥♦", "→←↑↓⇒", "∀x∈ℝ: ∃y≤x", "∑∏∫√∞≈≠", "™®©", "•◦‣", "█▓▒░", "┌─┐│└┘", "⠓⠑⠇⠇⠕",
]
SPACES = [
    "a\u00a0b", "a\u2003b \u2002c", "a\u3000b\u3000", "\u3000x", "a\u200bb", "a\u200db\u200cc", "a\u180eb", "\ufeffBOM", "a\ufeffb", "a\u2060b", "a\u0085b", "a\u0085\u0085 b",
    "a\u2028b\u2029c", "a\u202fb\u205fc", "\u1680ogham\u1680", "a\x0bb\x0cc", "a\x1cb\x1db\x1eb\x1f", "a\x00b", "\x00", "a\x01\x7f", "\x1b[31mred\x1b[0m",
    "\n", "\n\n", "\n\n\n\n\n\n", "\r\n", "\r", "\r\n\r\n", "a\r\nb\rc\nd", " \n ", "  \n\n  ", "a  \nb", "a \n  b", "\t", "\t\t\t", " \t \t ", "a \t b",
    "a    b", "a        b", " " * 17, "x" + " " * 16 + "y", "trailing   ", "trailing\n", "trailing \n", "trailing\n\n ", "   leading", "\n leading", "a \u00a0 b", "a \u200b b",
    "\u00a0", "\u200b", "\u2800blank", "a\u00adb",
]
MARKS = [
    "e\u0301", "\u00e9", "cafe\u0301 café", "cafe\u0301", "A\u030a \u00c5 \u212b", "o\u0302\u0323", "o\u0323\u0302", "\u1ed9", "q\u0307\u0323", "q\u0323\u0307", "a" + "\u0301" * 12,
    "\u0301a", " \u0301", "\u0301", "Z\u0351\u036b\u0343a\u0328l\u034eg\u0329o\u0321", "\u1100\u1161\u11a8", "\uac01", "\uac00\u11a8", "\u2126 \u03a9", "\ufb1d \u05d9\u05b4", "\u0958 \u0915\u093c",
    "\u2adc", "ſ K Å", "ﷺ", "ＡＢＣ　ｘｙｚ", "㍿㌔㈱", "ǆ ĳ ŉ", "\U0001d15e", "\u0344", "\u0f73\u0f71\u0f72", "\ufeff\u0301", "x\u20dd", "a\u1dc4b", "\u3099か\u3099 が",
]
SPECIALS = [
    "<|endoftext|>", "a<|endoftext|>b", " <|endoftext|> ", "<|endoftext|><|endoftext|>", "<|im_start|>user\nHi<|im_end|>\n", "<s>", "</s>", "<s>a</s>", "<s> a </s> b",
    "a <s>b", "<unk>", "x<unk>y", "<s", "s>", "<<s>>", "<mask>", "a <mask> b", "a  <mask>  b", "<|begin_of_text|>x", "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
    "<think>\nhm\n</think>", "[INST] Hi [/INST]", "[INST][/INST]", "<start_of_turn>user\nHi<end_of_turn>\n", "<h1>Title</h1>", "<|user|>\nHi<|end|>\n<|assistant|>\n",
    "<|user|>   \n\t Hi", "a <|mid|> b", "a  \n<|mid|>\n  b", "<|mid|> <|mid|>", " <|mid|>  <|user|> <|mid|>", "<|user|> <|end|>\u3000x", "<repo_name>a<reponame>b<repo", "<｜begin▁of▁sentence｜>x<｜User｜>y",
    "Hello", "Hello!", "aHello", "Hellob", "hello HELLO Hello", "_Hello_", "Hello\u0301", "ing sing ing.", "ing-ing", "<extra>", "a<extra>b", "▁<extra>", " <extra>", "▁", "▁▁", "▁▁▁▁▁▁▁", "a▁b", "▁a ▁b",
    "<0x0A>", "<0xE2><0x96>", "café cafe\u0301 CAFÉ", "Ġ Ċ ĉ", "Ġhello",
]
LONG = [
    "a" * 300, "ab" * 150, " " * 300 + "x", "\n" * 50, "!" * 100, "1" * 100, "é" * 60, "😀" * 30, "漢" * 80, "x " * 60, "<s>" * 20, "the " * 40,
]
# One character of many ranges, between letters.
RANGES = [f"x{chr(point)}y {chr(point)}z" for point in (
    0x80, 0x9f, 0xa1, 0xa7, 0xaa, 0xb5, 0xb7, 0xba, 0xd7, 0x2c6, 0x2ff, 0x345, 0x370, 0x37e, 0x488, 0x589, 0x5be, 0x5f3, 0x600, 0x640, 0x66b, 0x6dd, 0x70f,
    0x900, 0x903, 0x964, 0x9f4, 0xe3f, 0xe50, 0xf20, 0xf3a, 0x1040, 0x1361, 0x1369, 0x1400, 0x166e, 0x16ee, 0x17b4, 0x1806, 0x19da, 0x200e, 0x2010, 0x2039, 0x203f,
    0x2044, 0x2070, 0x20ac, 0x20d0, 0x2118, 0x2145, 0x2160, 0x2460, 0x24b6, 0x249c, 0x2776, 0x27e6, 0x2c7c, 0x2d6f, 0x2e2f, 0x3007, 0x3021, 0x3030, 0x3192, 0x3220, 0x3400,
    0xa66f, 0xa788, 0xa8f7, 0xab5b, 0xd7ff, 0xe000, 0xf900, 0xfb00, 0xfd3e, 0xfe0f, 0xfe33, 0xff04, 0xff3f, 0xfff9, 0xfffd, 0x10000, 0x10107, 0x1d165, 0x1d7ce, 0x1f100,
    0x1f130, 0x1f3fb, 0x1f9ff, 0x20000, 0xe0001, 0xe0100, 0xf0000, 0x10ffff)]

ALL = WORDS + NUMBERS + SCRIPTS + CODE + EMOJI + SPACES + MARKS + SPECIALS + LONG + RANGES
