"""Is speculation worth it on this machine, with this pair, for these questions? One answer, with error bars.

machine      what this machine reads and multiplies in a second, and what a pass of the target needs of both
tape         the pair's drafts at every place of its answers, recorded once
replay       the engine along a tape, under any settings, without a model
losses       what each step lost against a drafter that is always right, and to what
levers       what another setting would gain, by replay; then measured
reliability  how well predicted probabilities are kept, and what mends them
splits       whom the gain comes from
diagnosis    all of this, saved and loaded; `run` makes one within its minutes
verdict      it in a few sentences
"""
