package local

// ForgetHistory makes the store's watches resync.
func (s *Store) ForgetHistory() { s.client.ForgetHistory() }
