//! Text that looks, and compresses, like the messages of a chat.
//!
//! Words come from a vocabulary with Zipf's frequencies: the commonest of English first, made-up
//! ones behind them. Each word has favourite successors, as in any language; how often they are
//! followed decides how well the text compresses.

use super::random::{Seeded, Zipf};

const WORDS: usize = 9_000;
const SUCCESSORS: usize = 8;
/// Of 100 words, so many are a favourite successor of the word before.
const FOLLOWED_PERCENT: u64 = 54;

const STOCK_SENTENCES: usize = 700;
/// Of 100 sentences, so many were said before, word for word.
const STOCK_PERCENT: u64 = 63;

/// The commonest words, most frequent first.
const COMMON: &str = "the to a i and it is you that of in for on this have not be but with if can \
    just so was do what my are at we like or they there me your no all as now yeah from how when \
    up think know out some get would about one will then ok good don't it's i'm that's time more \
    see work need should has an really also still here because want people why thanks today had \
    could which them new only than very who way make sure other into much right even something \
    well back were use go did too been lol same where maybe going any after thing using actually \
    before over first got being does day try again say most let their better those already issue \
    code server version look our problem help can't i'll take off while these since always two \
    point working every test around bit down great last another doesn't things come probably \
    update check next anyone sounds through yes idea put many file give pretty thought without \
    long run never nice later least end set read part feel change error might build week fix both \
    data each old call until show find used yet trying under start far kind wait doing happen \
    place support little tomorrow morning tonight remember question answer different support \
    release channel message meeting weekend coffee lunch screen window system local remote \
    deploy branch merge review broken slow fast memory disk network password login account \
    restart backup restore database table query index cache client request response token config \
    docker linux laptop phone battery keyboard music game movie book weather train ticket";

/// Generates names, sentences, messages and JSON.
#[derive(Clone, Debug)]
pub struct Text {
    /// All words, one behind the other.
    letters: String,
    /// Where each word begins in `letters`, and the end of the last.
    starts: Vec<u32>,
    successors: Vec<[u16; SUCCESSORS]>,
    zipf: Zipf,
    /// What everybody says again and again.
    stock: Vec<String>,
    stock_zipf: Zipf,
}

impl Text {
    /// The language of that seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Seeded::new(seed);
        let (mut letters, mut starts) = (String::new(), vec![0]);
        let mut common = COMMON.split_ascii_whitespace();
        for _ in 0..WORDS {
            match common.next() {
                Some(word) => letters.push_str(word),
                None => push_made_up(&mut random, &mut letters),
            }
            starts.push(letters.len() as u32);
        }
        let zipf = Zipf::new(WORDS, 1.1);
        let successors =
            (0..WORDS).map(|_| std::array::from_fn(|_| zipf.pick(&mut random) as u16)).collect();
        let stock_zipf = Zipf::new(STOCK_SENTENCES, 0.68);
        let mut text = Text { letters, starts, successors, zipf, stock: Vec::new(), stock_zipf };
        for _ in 0..STOCK_SENTENCES {
            let (mut sentence, characters) = (String::new(), 10 + random.below(50) as usize);
            text.sentence(&mut random, characters, &mut sentence);
            text.stock.push(sentence);
        }
        text
    }

    /// A word that can be a name.
    pub fn name(&self, random: &mut Seeded) -> &str {
        self.word(200 + random.below(WORDS as u64 - 200) as usize)
    }

    /// Appends words until at least `characters` were added; a full stop at the end.
    pub fn sentence(&self, random: &mut Seeded, characters: usize, into: &mut String) {
        let begin = into.len();
        let mut current = self.zipf.pick(random);
        loop {
            self.push_word(random, current, into);
            if into.len() - begin >= characters {
                break;
            }
            if random.one_in(11) {
                into.push(',');
            }
            into.push(' ');
            current = match random.below(100) < FOLLOWED_PERCENT {
                // The smaller of two numbers: the first successors are the favourites.
                true => {
                    let choice = random.next();
                    let place = (choice & 7).min((choice >> 8) & 7);
                    usize::from(self.successors[current][place as usize])
                }
                false => self.zipf.pick(random),
            };
        }
        into.push(['.', '.', '!', '?'][random.below(4) as usize]);
    }

    /// Appends a message: most are short, some long, about 130 characters on average.
    pub fn message(&self, random: &mut Seeded, into: &mut String) {
        let begin = into.len();
        // A product of two even shares is skewed to short ones as lengths of messages are.
        let characters = 8 + (random.fraction() * random.fraction() * 445.0) as usize;
        if random.one_in(9) {
            into.push('@');
            into.push_str(self.name(random));
            into.push(':');
        }
        while into.len() - begin < characters {
            if into.len() > begin {
                into.push(' ');
            }
            let left = characters.saturating_sub(into.len() - begin);
            let length = left.min(20 + random.below(70) as usize);
            match random.below(100) < STOCK_PERCENT {
                true => into.push_str(&self.stock[self.stock_zipf.pick(random)]),
                false => self.sentence(random, length, into),
            }
        }
        match random.below(40) {
            0..3 => into.push_str([" 😀", " 😂", " 👍"][random.below(3) as usize]),
            3 => {
                into.push_str(" https://example.org/");
                into.push_str(self.name(random));
                into.push('/');
                random.push_letters(11, into);
            }
            _ => {}
        }
    }

    /// Appends a small JSON object, as applications keep beside a message.
    pub fn meta(&self, random: &mut Seeded, into: &mut String) {
        let client = ["web", "ios", "android", "desktop"][random.below(4) as usize];
        let version = random.below(9);
        into.push_str(&format!("{{\"client\":\"{client}\",\"version\":\"2.{version}\""));
        if random.one_in(2) {
            into.push_str(&format!(",\"edited_at\":{}", 1_704_067_200 + random.below(31_536_000)));
        }
        if random.one_in(3) {
            let (mut id, bytes) = (String::new(), random.below(5_000_000));
            random.push_letters(16, &mut id);
            into.push_str(&format!(",\"attachment\":{{\"id\":\"{id}\",\"bytes\":{bytes}}}"));
        }
        into.push('}');
    }

    fn word(&self, rank: usize) -> &str {
        &self.letters[self.starts[rank] as usize..self.starts[rank + 1] as usize]
    }

    fn push_word(&self, random: &mut Seeded, rank: usize, into: &mut String) {
        match random.below(64) {
            0 => into.push_str(&random.below(3_000).to_string()),
            1 | 2 => {
                let word = self.word(rank);
                into.extend(word.chars().take(1).flat_map(char::to_uppercase));
                into.extend(word.chars().skip(1));
            }
            _ => into.push_str(self.word(rank)),
        }
    }
}

/// A word of one to three syllables that could be of some language.
fn push_made_up(random: &mut Seeded, into: &mut String) {
    const ONSETS: &[&str] = &[
        "b", "c", "d", "f", "g", "h", "j", "l", "m", "n", "p", "r", "s", "t", "v", "w", "st", "tr",
        "ch", "sh", "br", "pl", "gr", "th", "k", "qu",
    ];
    const VOWELS: &[&str] = &["a", "e", "i", "o", "u", "ea", "ou", "ai", "e", "o", "i", "y"];
    const CODAS: &[&str] = &["", "", "", "n", "r", "s", "l", "t", "ng", "ck", "m", "st"];
    let one_of =
        |list: &[&'static str], random: &mut Seeded| list[random.below(list.len() as u64) as usize];
    for _ in 0..=random.below(3).min(random.below(4)) {
        into.push_str(one_of(ONSETS, random));
        into.push_str(one_of(VOWELS, random));
        into.push_str(one_of(CODAS, random));
    }
}
