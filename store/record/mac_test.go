package record

import "testing"

// What is read is a unicast address of 48 bits in one form, and reads as itself.
func FuzzParseMAC(f *testing.F) {
	f.Add("02:42:0A:00:00:02")
	f.Add("0242.0a00.0002")
	f.Add("01:00:5e:00:00:01")
	f.Fuzz(func(t *testing.T, s string) {
		m, ok := ParseMAC(s)
		if !ok {
			return
		}
		if again, ok := ParseMAC(string(m)); !ok || again != m || len(m) != 17 || m == "00:00:00:00:00:00" || m[1]&1 != 0 && m[1] < 'a' {
			t.Errorf("%q is %q, which is %q, %t", s, m, again, ok)
		}
	})
}
