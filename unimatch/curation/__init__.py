"""What of many images is worth training on: prints (a fingerprint of each), doubles (which repeat others),
unlike (how far they lie from the labelled ones in an encoder's features), appended (files that go on).
"""
