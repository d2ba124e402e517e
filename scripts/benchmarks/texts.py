"""English to be read aloud and heard again, written for this project.

Without figures, names and words of two spellings, so that what a listener writes differs only by what was misheard.
Every passage fits the 30 seconds that Whisper hears at once, even at half speed.
"""

from __future__ import annotations

_TEXT = """
The old lighthouse had been dark for many winters, yet the keeper still climbed the stairs every evening. He said the
sea would notice if he stopped.

A small brown dog waited outside the bakery until the last customer had gone home. Then the door opened, and somebody
threw him the end of a loaf.

Rain fell on the tin roof all night, and nobody in the cabin could sleep. By morning the path to the village had
become a river of mud.

She found the letter behind a drawer, folded so often that the paper had begun to tear. It was addressed to her
mother, and it had never been opened.

When the train stopped between two fields, the passengers looked up from their books. A fox crossed the tracks, sat
down, and watched them as if they were the strange animals.

The boy had promised not to touch the piano, but the room was empty and the lid was open. He pressed a single key, and
somewhere in the house a voice began to sing.

Every spring the same swallow returned to the same barn and complained about the same cat. The farmer swore that they
enjoyed it.

Are you coming to the market with me, or do you want to stay here and finish your drawing? I can bring you some
cherries if they look good.

I thought we agreed to leave before lunch. The roads are always crowded on a Friday, and your sister hates waiting in
the cold.

Please don't worry about the broken cup. It was chipped already, and I never liked the color anyway.

You always say that the shortcut is faster, and we always get lost. This time we follow the signs, and I will hold the
map!

What did the doctor tell you yesterday? If you need somebody to drive you to the hospital, just call me, no matter how
late it is.

That was the best soup I have eaten in years. Could you write the recipe down for me before I forget to ask again?

Listen, I know that you are tired, but the guests will be here soon. Help me with the chairs, and afterwards you can
rest.

Pour the flour into a large bowl and make a hollow in the middle. Add the warm milk slowly, stir with a wooden spoon,
and let the dough rest under a clean towel.

Before you open the case, unplug the machine and wait until the fan has stopped. Loosen the screws on the back, then
lift the cover straight up.

Follow the river until you reach the stone bridge, cross it, and turn left behind the church. The museum is the yellow
building with the green door.

To plant a young tree, dig a hole that is wider than the roots. Fill it with soft earth, press gently with your foot,
and give it plenty of water.

Hold the brush like a pencil and begin at the top of the page. Let the paint dry between the layers, or the blue will
run into the yellow.

If the alarm rings, leave your bags where they are and walk to the nearest exit. Do not use the elevator, and wait for
the others in the parking lot.

Clouds will move in from the west this afternoon, followed by strong wind along the coast. Temperatures fall during
the night, and snow is possible in the mountains.

The city council voted on Monday to close the old bridge to heavy trucks. Engineers had warned for months that the
steel beams were losing their strength.

Farmers in the valley expect a poor harvest after the driest summer in living memory. Several villages have begun to
bring drinking water by truck.

The museum announced that a painting long believed to be lost has been found in a cellar. Experts will now study the
canvas before it is shown to the public.

Workers at the paper factory returned to their machines this morning after a long strike. Both sides described the
agreement as fair, though not perfect.

Bees tell each other where to find flowers by dancing in the dark of the hive. The angle of the dance shows the
direction, and its length gives the distance.

Glass is made from sand, ash and lime, melted together in a furnace. While it is hot it can be blown, poured, pressed
or pulled into threads.

The moon pulls at the oceans, and the water rises toward it. As the earth turns, every coast meets that bulge, and
people call it the tide.

Early printers arranged small metal letters by hand, line after line. A careless apprentice could ruin a whole page by
dropping the tray.

A muscle cannot push; it can only pull. That is why they come in pairs, with a partner on the other side of the bone
to bring it back.

Good memory is less a gift than a habit. People who remember faces well usually look for a detail, give it a story,
and repeat that story later.

In dry countries, houses were built around a shady court with a fountain. The thick walls kept out the heat, and the
moving water cooled the air.

Thank you for sending the samples so quickly. Our team will test them next week, and we hope to send you an answer
before the end of the month.

I am writing to complain about the noise from the workshop below my apartment. The hammering starts before sunrise and
continues until my children are in bed.

Dear guests, the swimming pool remains closed today because of repairs. We apologize for the trouble and invite you to
a free breakfast on the terrace.

The meeting has moved to the small room upstairs, since the projector in the hall is broken. Bring your notes, and be
ready to explain the new budget.

My grandmother kept her recipes in a shoe box under the bed. When she died, we discovered that she had changed every
quantity, so that nobody could ever copy her.

There are people who collect stamps, and people who collect excuses. The second hobby needs less space, but it grows
much faster.

Nothing is quite as quiet as a theater after the audience has left. The dust settles on the velvet, and the actors
become ordinary again.

Which would you rather have, a garden without flowers or a library without books? Choose carefully, because the wizard
does not offer anything twice.

Fresh fish, sharp cheese, thick slices of bread, a jar of olives and a bottle of juice lay on the checkered cloth.
Surely that was enough for lunch!

The judge asked whether the witness had seen the thief clearly. She hesitated, twisted the ring on her finger, and
finally shook her head.

His brother threw the rope across the ravine, but the wind caught it. They tried again and again until their arms
ached and the light was gone.

Change rarely arrives with a trumpet. It slips in through the kitchen door, hangs up its coat, and asks what is for
dinner.
"""

PASSAGES = tuple(" ".join(passage.split()) for passage in _TEXT.split("\n\n"))
