"""The eight emotions as changes of prosody and timbre, from published rules.

Where the figures come from:

- **Rules**: M. Schröder's for MARY TTS (`emotion-to-mary.xsl`, after his "Expressing degree of activation in synthetic
  speech", IEEE TASLP 14, 2006). They take an emotion's place by evaluation, activation and power, each from -100 to
  100; the places are ours. From them: the level of F0, its range, the rate, the length of pauses, the level.
- **Twins**, which the rules leave nearly alike, are told apart by categorical cues after F. Burkhardt, "Emofilt: the
  simulation of emotional speech by prosody transformation" (Interspeech 2005): jitter in anger, fear and, most, in
  sadness; anger's long stressed vowels and falling accents; fear's much higher F0 and doubled pauses; a final rise in
  sadness; boredom's halved range, here melancholy's.
- **Voices**: I. Murray and J. Arnott, "Toward the simulation of emotion in synthetic speech" (JASA 93, 1993): fear very
  much higher and of normal loudness; disgust lower, slower, softer, of slightly wider range, its endings falling far,
  with a grumbled chest tone; surprise rising and breathy; joy with upward inflections.
- **Spectra**: P. Juslin and P. Laukka, "Communication of emotions in vocal expression and music performance"
  (Psychological Bulletin 129, 2003): much high-frequency energy in anger, some in joy, little in sadness, fear and
  tenderness; loudness that varies much in anger and fear, little in sadness and tenderness; a rising contour in fear.
- **Joy** has raised formants and a loudness that varies: R. Kamiloğlu, A. Fischer and D. Sauter, "Good vibrations"
  (Psychonomic Bulletin & Review 27, 2020).

All these say which way, the rules and Emofilt also how far. How many dB, semitones or per cent stand for "much" and
"little", how far Emofilt's strong effects are taken back, breath for softness in sadness, fear and calm, and how long
final syllables are, is ours, held by `scripts/benchmarks/emotions.py`, and by whether Whisper still understands it.
"""

from __future__ import annotations

from collections.abc import Sequence

from dia_server.models.hibari.controls import Manner, Prosody, Timbre
from dia_server.tasks import EMOTIONS

# The rules have 1.42 for joy and surprise, at which short phonemes are swallowed.
FASTEST = 1.2
# The rules' volume goes from 0 to 100 around 50.
DB_PER_VOLUME = 9 / 50


def by_rules(evaluation: float, activation: float, power: float) -> Manner:
    """MARY TTS' rules at a place, each coordinate from -100 to 100."""
    rate = 1 + (0.5 * activation + 0.2 * evaluation) / 100
    return Manner(
        prosody=Prosody(
            f0=1 + (0.3 * activation + 0.1 * evaluation - 0.1 * power) / 100,
            f0_range=(4 + 0.04 * activation) / 4,
            duration=1 / min(rate, FASTEST),
            pause=1 - 0.2 * activation / 100,
        ),
        timbre=Timbre(gain=DB_PER_VOLUME * 0.33 * activation),
    )


MANNERS = {
    "happy": by_rules(81, 51, 46).moved(
        Manner(
            prosody=Prosody(f0_final=1.5, accent=1.5, effort=1.08, dynamics=1.15),
            timbre=Timbre(warp=1.03, tilt=1.0),
        )
    ),
    "angry": by_rules(-51, 59, 25).moved(
        Manner(
            prosody=Prosody(f0_final=-2.0, accent=-4.0, jitter=2.0, stressed=1.2, effort=1.15, dynamics=1.25),
            timbre=Timbre(tilt=1.8),
        )
    ),
    "sad": by_rules(-63, -27, -33).moved(
        Manner(
            prosody=Prosody(f0_final=1.5, accent=-1.5, jitter=3.0, pause=1.2, effort=0.9, dynamics=0.9),
            timbre=Timbre(tilt=-1.8, breath=0.3),
        )
    ),
    "afraid": by_rules(-64, 60, -43).moved(
        Manner(
            prosody=Prosody(f0=1.12, f0_final=3.0, accent=3.0, jitter=2.0, pause=2.0, dynamics=1.1),
            timbre=Timbre(tilt=-1.5, breath=0.3, gain=-3.5),
        )
    ),
    "disgusted": Manner(
        prosody=Prosody(
            f0=0.88, f0_range=1.2, f0_final=-4.0, accent=-2.5, jitter=1.0, duration=1.18, stressed=1.2, final=1.2
        ),
        timbre=Timbre(low_warp=0.95, tilt=-0.5, gain=-1.0),
    ),
    "melancholic": by_rules(-72, -29, -41).moved(
        Manner(
            prosody=Prosody(f0_range=0.65, f0_final=-1.0, duration=0.88, final=1.25, pause=1.2, effort=0.92),
            timbre=Timbre(tilt=-1.5),
        )
    ),
    "surprised": by_rules(40, 67, -13).moved(
        Manner(
            prosody=Prosody(f0_final=4.0, accent=4.0, duration=1.05, stressed=1.1, effort=1.05, dynamics=1.1),
            timbre=Timbre(tilt=0.8, breath=0.1),
        )
    ),
    "calm": by_rules(68, -46, 6).moved(
        Manner(
            prosody=Prosody(effort=0.95, dynamics=0.75),
            timbre=Timbre(tilt=-1.2, breath=0.2),
        )
    ),
}


def mixed(weights: Sequence[float]) -> Manner:
    """Emotions by weight, in the order of `EMOTIONS`: factors by their logarithms; more than 1 together counts as 1."""
    total, manner = max(1.0, sum(weights)), Manner()
    for name, weight in zip(EMOTIONS, weights, strict=False):
        manner = manner.moved(MANNERS[name], weight / total)
    return manner
