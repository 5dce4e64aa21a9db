package sandbox

const holderEnv = "WEFT_TEST_HOLD"

func holdHost() {}
