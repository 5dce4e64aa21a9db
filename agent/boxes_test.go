package agent

import "testing"

// A rename that came to nothing leaves the name as it was, also where the new one was the same but for its case.
func TestANameThatIsGivenBackIsNotTheSandboxsOwn(t *testing.T) {
	t.Parallel()
	b := newBoxes(nil)
	s := box("web")
	b.show(s)
	for _, name := range []string{"WEB", "other"} {
		if err := b.reserve(name, s.ID); err != nil {
			t.Fatal(err)
		}
		b.unreserve(name, s.ID)
		if got, err := b.find("web"); err != nil || got != s {
			t.Errorf("after %s came to nothing: %v, %v", name, got, err)
		}
		if err := b.reserve("web", "5bthief"); err == nil {
			t.Errorf("after %s came to nothing, another can have the name", name)
		}
	}
	if err := b.reserve("other", "5bnext"); err != nil {
		t.Error(err)
	}
}
