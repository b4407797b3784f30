"""Seeded lines of mixed Unicode, of the kinds that make tokenizers differ."""

import random
import unicodedata

WORDS = {
    "latin": "the and of Skein formation don't I'll WE'VE it's naïve Zürich garçon Ærø łódź straße İstanbul ﬁne ſo "
    "antidisestablishmentarianism cooperate re-enter e-mail O'Neill’s",
    "cyrillic": "стая гусей летит клином Ёлка объём ПРИВЕТ мир їжак",
    "greek": "σμήνος χήνες ΟΔΥΣΣΕΥΣ Άνθρωπος ἀρχῇ ᾧ λόγος ς",
    "arabic": "سرب من الإوز يطير مُحَمَّد ٢٠٢٦ لا",
    "hebrew": "להקת אווזים עָפָה שָׁלוֹם",
    "devanagari": "हंसों का झुण्ड उड़ता है क्षत्रिय १२३",
    "bengali": "হাঁসের ঝাঁক উড়ছে বাংলা ৪৫৬",
    "tamil": "வாத்துக்கள் பறக்கின்றன தமிழ்",
    "thai": "ฝูงห่านบินเป็นรูปตัววี ๑๒๓ น้ำ",
    "lao": "ຝູງຫ່ານ ບິນ",
    "myanmar": "ငန်းအုပ် ပျံသန်း မြန်မာ",
    "khmer": "ហ្វូងក្ងាន ហើរ ខ្មែរ",
    "tibetan": "ངང་པའི་ཁྱུ་འཕུར་བ།",
    "georgian": "ბატების გუნდი მიფრინავს ᲡᲐᲥᲐᲠᲗᲕᲔᲚᲝ",
    "armenian": "սագերի երամը թռչում է",
    "ethiopic": "የዝይ መንጋ ይበርራል ፩፪",
    "han": "雁阵 一群大雁排成人字形飞过天空。 龍 㐀 𠀀 𪚥 〇 你好，世界！",
    "japanese": "雁の群れが ガチョウ ｶﾀｶﾅ ゛ が 東京タワー ヴ",
    "korean": "기러기 떼가 날아간다 한글 ㄱㅏ 가각",
    "mongolian": "ᠮᠣᠩᠭᠣᠯ ᠪᠢᠴᠢᠭ᠎ᠤᠨ галуу",
    "old": "𐌰𐍄𐍄𐌰 𓀀𓁿 𒀀𒁀 𐤀𐤁 ᚠᚢᚦ 𝔘𝔫𝔦 𝟘𝟙𝟚",
}
EMOJI = [
    "😀",
    "👍🏽",
    "👩‍👩‍👧‍👦",
    "🏳️‍🌈",
    "🇨🇭",
    "🇺🇳🇪",
    "❤️",
    "❤",
    "🧑🏿‍🚀",
    "#️⃣",
    "1️⃣",
    "☃",
    "🪿",
    "👨‍💻",
    "🏴󠁧󠁢󠁳󠁣󠁴󠁿",
    "‍",
    "️",
    "🦢🦢",
]
CODE = [
    "def count(birds): return sum(1 for b in birds if b)",
    "#include <vector>\nint main() { return 0; }",
    "x += y[i]->z;",
    "    if (a && !b) {",
    "\tfor i in range(10):\n\t\tprint(i)",
    "SELECT * FROM t WHERE id=42;",
    '<div class="a">&nbsp;</div>',
    "https://example.org/a/b?c=d&e=%20#f",
    "$HOME/.bashrc | grep -v '^#' > /dev/null",
    "\\frac{1}{2}\\,\\mathrm{d}x",
    "a != b == c <= d",
    "```python\nprint('hi')\n```",
    "/* ---- */ // ====",
    "foo_bar.baz[::-1]",
    '{"key": [1, 2.5e-3, null]}',
    "0x1F 1_000 3.14 1,234,567 12:30",
]
SPACES = [
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\r\n",
    "\r",
    "\n\n",
    " \n",
    "\n ",
    "\t ",
    "\u00a0",
    "\u3000",
    "\u2028",
    "\u2029",
    "\u0085",
    "\u180e",
    "\u200b",
    "\ufeff",
    "\u202f",
    "\x0b",
    "\x0c",
    "\u1680",
    "\u2009",
    " " * 17,
    "\n" * 5,
    "\t" * 3,
    "        ",
]
CONTROL = [chr(c) for c in (*range(0x20), *range(0x7F, 0xA0))] + [
    "\ufffd",
    "\uffff",
    "\ue000",
    "\U000f0000",
    "\u200d",
    "\u200e",
    "\u202e",
]
MARKS = [
    "\u0301",
    "\u0323",
    "\u0308\u0304",
    "\u20dd",
    "\u0483",
    "\u093c",
    "\u05b8",
    "\u0e48",
    "\u3099",
    "\u1ab0",
    "\ufe0f",
    "\u0345",
]
SPECIAL = [
    "<s>",
    "</s>",
    "<unk>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<｜begin▁of▁sentence｜>",
    "<|end",
    "|>",
    "<|",
    "<s",
    "</s",
    "<0x0A>",
    "<0xE2>",
    "▁",
    "▁▁",
    "Ġ",
    "Ċ",
    "â",
    "<tool>",
    "<b >",
    "[LEFT]",
    "[RIGHT]",
    "[WORD]",
    "Norm",
]
CONTRACTIONS = ["'s", "'S", "'ll", "'LL", "'Ll", "'re", "'VE", "'d", "'m", "'T", "'ſ", "’s", "'sx", "''s"]
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + [
    "…",
    "—",
    "«",
    "»",
    "。",
    "、",
    "！",
    "「",
    "¿",
    "§",
    "€",
    "™",
    "½",
    "²",
    "Ⅷ",
    "①",
    "٪",
    "...",
    "!!!",
    "?!",
    "--",
    "===",
]


# Where characters are drawn from, in runs of 128: all but surrogates and most of the great scripts and private areas.
BLOCKS = [
    block
    for block in range(0x110000 >> 7)
    if not 0xD800 <= block << 7 < 0xE000
    and (block < 0x5000 >> 7 or 0x9F80 <= block << 7 < 0x20000 or block % 16 == 0)
]


class Lines:
    def __init__(self, seed, extra_special=()):
        self.random = random.Random(seed)
        self.words = {script: text.split() for script, text in WORDS.items()}
        self.special = SPECIAL + list(extra_special)

    def character(self):
        return chr((self.random.choice(BLOCKS) << 7) + self.random.randrange(128))

    def digits(self):
        zero = self.random.choice("0000٠०๐０𝟘")
        text = "".join(chr(ord(zero) + self.random.randrange(10)) for _ in range(self.random.randint(1, 12)))
        return self.random.choice(["", "-", "+", "$", "1.", "v"]) + text

    def piece(self):
        r = self.random
        kind = r.randrange(16)
        if kind < 5:
            words = r.choice(list(self.words.values()))
            word = r.choice(words)
            return r.choice([word, word, word.upper(), word.capitalize(), unicodedata.normalize("NFD", word)])
        if kind == 5:
            return self.digits()
        if kind == 6:
            return r.choice(EMOJI)
        if kind == 7:
            return r.choice(CODE)
        if kind == 8:
            return "".join(r.choice(SPACES) for _ in range(r.randint(1, 4)))
        if kind == 9:
            return r.choice(CONTROL)
        if kind == 10:
            return r.choice(WORDS["latin"].split()) + r.choice(MARKS)
        if kind == 11:
            return r.choice(self.special)
        if kind == 12:
            return r.choice(["we", "I", "x", "Δ", "9"]) + r.choice(CONTRACTIONS)
        if kind == 13:
            return "".join(r.choice(PUNCTUATION) for _ in range(r.randint(1, 4)))
        if kind == 14:
            return "".join(self.character() for _ in range(r.randint(1, 6)))
        return r.choice(["a", "ab", "é", " ", "\n", "0", "あ", "😀", "<", "\x00"]) * r.randint(2, 40)

    def line(self):
        r = self.random
        glue = r.choice([" ", " ", " ", "", "", "\n", "  "])
        text = glue.join(self.piece() for _ in range(r.randint(1, 12)))
        if r.random() < 0.2:
            text = " " * r.randint(1, 3) + text
        if r.random() < 0.2:
            text += r.choice(SPACES)
        return text


def generate(count, seed=20261122, extra_special=()):
    lines = Lines(seed, extra_special)
    return ["", " ", "\n", "a"] + [lines.line() for _ in range(count - 4)]
