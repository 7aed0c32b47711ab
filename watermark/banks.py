"""The versioned word banks that keys draw from. Their digest is part of every commitment.

Cue words are short, common English words, so that a cue costs one or two tokens and its perplexity is
that of ordinary text. Carrier words and cue words are disjoint sets. Questions are closed judge questions
on topics; a key uses a topic at most once. Changing any list changes `BANKS_DIGEST` and needs a new
`BANKS_VERSION`: evidence of older keys names the version it was drawn from.
"""

from __future__ import annotations

from watermark.prf import digest

BANKS_VERSION = "en-1"

_CUE_TEXT = """
    amber anchor apron arch arrow atlas attic autumn badge bamboo banner barley barn basin beacon bell
    berry birch blanket bloom blossom boot border bottle bow branch brass breeze brick bridge bronze brook
    brush bubble bucket buckle button cabin cable cactus calm camel canal candle canoe canvas cape caravan
    cargo carpet castle cedar cello chain chalk cherry chess chime cider circle clay cliff cloak clock cloth
    cloud clover cobalt coconut coin comet compass copper coral cork corner cotton cove cradle crane crater
    creek crest cricket crown crystal cube curtain cushion dagger daisy dawn delta denim desert dew diamond
    domino dove dragon drift drum dune dusk eagle ebony echo eclipse elbow elm ember emerald engine falcon
    feather fern fiddle field flame flint flute foam fog forge fossil fountain frost galaxy garnet gate
    gazelle ginger glacier glass globe glove granite grape gravel grove guitar gulf hammer harbor harp
    harvest hazel heather hedge helmet heron hinge hollow honey horizon horn igloo indigo ink iris iron
    island ivory ivy jacket jade jasmine jewel jungle juniper kayak kernel kettle kite lace ladder lagoon
    lantern lark laurel lava leaf lemon lever lichen lilac linen lion lodge lotus lunar lynx magnet mango
    maple marble marsh meadow melon mercury meteor mint mirror mist mitten moon mosaic moss moth mule
    nectar needle nest nickel nomad north nutmeg oak oasis oat ocean olive onyx opal orbit orchid otter owl
    oyster paddle palm panda pearl pebble pepper petal piano pigeon pillar pillow pine pixel plank planet
    plaza plum pocket pollen pond poplar poppy prairie prism pulse pumpkin puzzle pyramid quail quartz quill
    quilt rabbit radar raft rain ramp raven reed reef ribbon ridge river robin rocket roof rope rose ruby
    rust saddle saffron sage sail salmon salt sand sapphire satin scarf shadow shell shield silk silver
    sketch sky slate sled snow socket solar spade spark spice spiral spoon spruce stamp star steam steel
    stone stork storm straw stream summit swan sword tango teal temple thistle thorn thread thunder tide
    tiger timber tin topaz torch tower trail tulip tundra tunnel turtle valley vanilla vapor vase velvet
    vine violet violin volcano wagon walnut water wave wax whale wheat wheel willow wind window wing winter
    wolf wool wren yarn yeast zebra zenith zinc zipper
"""

CUE_WORDS: tuple[str, ...] = tuple(_CUE_TEXT.split())

DECORATION_FORMS: tuple[str, ...] = ("({})", "[{}]", "<{}>", "{}:", "*{}*", "#{}", "~{}~", '"{}"')
"""How a word becomes a decoration of the question."""

QUESTION_FORMS: tuple[str, ...] = (
    "Does the following sentence mention {}?",
    "Is the text below about {}?",
    "Would you say this sentence refers to {}?",
    "Does this line have anything to do with {}?",
    "Is {} the subject of the following text?",
    "Does the sentence below describe {}?",
    "Can this passage be linked to {}?",
    "Is {} mentioned in the sentence below?",
)

TOPICS: tuple[str, ...] = (
    "a fruit", "the weather", "a musical instrument", "a journey", "money", "a wild animal", "a kitchen",
    "a famous painter", "the sea", "a school day", "an illness", "a sport", "a birthday", "a machine",
    "a mountain", "a letter", "a dream", "a promise", "a holiday", "a colour", "an argument", "a garden",
    "a secret", "a vehicle", "a language", "a wedding", "a number", "a tool", "a planet", "a king",
    "a piece of clothing", "a farm", "a mistake", "a game", "a market", "a museum", "a sound", "a smell",
    "a doctor", "a river crossing", "a lost object", "an old friend", "a debt", "a discovery", "a law",
    "a fire", "a meal", "a parade", "a newspaper", "a clock time", "a building site", "a library",
    "an election", "a surprise", "a rumour", "a recipe", "a train", "a neighbour", "a photograph",
    "a contract", "a volunteer", "a bad habit", "an experiment", "a lullaby", "a traffic jam", "a bargain",
    "a scientific theory", "an apology", "a rehearsal", "a shortcut", "a tradition", "a warning",
)  # fmt: skip

CARRIER_SUBJECTS: tuple[str, ...] = (
    "the old teacher", "my younger cousin", "a tired nurse", "the new manager", "our quiet tenant",
    "a friendly pilot", "the young lawyer", "his former coach", "a careful tailor", "the shy student",
    "her patient editor", "the busy waiter", "a retired judge", "the local plumber", "their noisy parrot",
    "a curious tourist", "the senior clerk", "my late uncle", "an honest trader", "the chief architect",
    "a visiting poet", "the night guard", "our best striker", "a polite stranger", "the junior analyst",
    "her eldest brother", "a stubborn donkey", "the village baker", "some young actors", "the whole family",
)  # fmt: skip

CARRIER_VERBS: tuple[str, ...] = (
    "carried", "noticed", "repaired", "borrowed", "described", "painted", "dropped", "returned",
    "collected", "hid", "measured", "cleaned", "found", "bought", "wrapped", "admired", "counted",
    "photographed", "moved", "opened", "packed", "inspected", "lifted", "sold", "labelled", "weighed",
)  # fmt: skip

CARRIER_OBJECTS: tuple[str, ...] = (
    "a small parcel", "the broken chair", "two heavy boxes", "a grey umbrella", "the first draft",
    "a bag of nails", "the spare keys", "an empty notebook", "the wooden table", "a pair of shoes",
    "the missing page", "a cheap radio", "several plates", "the front door", "a torn map", "the long report",
    "a plastic crate", "the green bicycle", "a bundle of papers", "the lunch menu", "three old coats",
    "a leaking pipe", "the display screen", "a jar of pickles", "the visitor list", "a framed poster",
    "the second sofa", "an unpaid bill", "the loose cables", "a stack of tiles",
)  # fmt: skip

CARRIER_ENDINGS: tuple[str, ...] = (
    "before lunch", "near the station", "without a word", "after the meeting", "in the basement",
    "last Tuesday", "behind the office", "for the third time", "on the way home", "at the front desk",
    "during the break", "next to the elevator", "early this morning", "in front of everyone",
    "with great care", "outside the hotel", "at the end of March", "despite the noise", "by accident",
    "across the street", "in a hurry", "under the stairs", "while the others waited", "to save some time",
)  # fmt: skip

SYSTEM_PROMPTS: tuple[str, ...] = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "You are a careful and polite assistant. Think before you answer.",
    "You work for a company's support desk.",
    "Reply in plain English.",
    "You are an expert who gives short, direct answers.",
)
"""Besides the chat template's own default and none at all."""


def _banks_digest() -> str:
    lists = (
        CUE_WORDS,
        DECORATION_FORMS,
        QUESTION_FORMS,
        TOPICS,
        CARRIER_SUBJECTS,
        CARRIER_VERBS,
        CARRIER_OBJECTS,
        CARRIER_ENDINGS,
    )
    parts = ["\n".join(words).encode() for words in lists]
    return digest("doublei/banks/v1", BANKS_VERSION.encode(), *parts).hex()


BANKS_DIGEST = _banks_digest()
"""hex SHA-256 over the lists that decide what a key is; system prompts belong to training."""
