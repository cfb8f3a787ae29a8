"""Names for runs that were given none: two words, easy to tell apart and to say."""

from __future__ import annotations

import random

_ADJECTIVES = (
    "amber ample azure brave brisk broad calm candid chrome civil clear clever copper coral cosmic "
    "crisp deft dusky eager early fabled fair fleet fond frank frosty gentle gilded glad golden "
    "grand hardy hazel honest humble ivory jolly keen kind lively loyal lucid lunar mellow merry "
    "mighty misty modest neat nimble noble olive patient placid plucky polar prime proud quick "
    "quiet rapid rosy ruby rustic sable sage scarlet serene sharp silent silver sleek solar "
    "stellar steady stout sturdy sunny swift tawny tidy trusty umber upbeat velvet vivid warm "
    "wise witty zesty"
)
_ANIMALS = (
    "adder albatross antelope auk badger beaver bison bittern bobcat buzzard caribou chamois "
    "cheetah condor cormorant crane curlew dingo dolphin dormouse eagle egret eland elk ermine "
    "falcon ferret finch fox gannet gazelle gecko gibbon goshawk grebe grouse hare harrier hawk "
    "heron ibex ibis jackal jaguar jay kestrel kingfisher kite lapwing lemur leopard linnet lynx "
    "magpie marlin marmot marten merlin mongoose moose narwhal newt ocelot orca osprey otter owl "
    "panther pelican petrel pika plover puffin puma quail raven robin sable salmon seal serval "
    "shrike skua snipe starling stoat stork swallow swan swift tapir tern thrush toucan vole "
    "walrus weasel wigeon wolf wren yak zebra"
)
_FIRST, _SECOND = _ADJECTIVES.split(), _ANIMALS.split()


def make_name(rng: random.Random) -> str:
    """A name such as `brisk-heron`."""
    return f"{rng.choice(_FIRST)}-{rng.choice(_SECOND)}"
