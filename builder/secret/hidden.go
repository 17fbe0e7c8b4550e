package secret

// hidden is a value that printing does not reach: fmt follows pointers into the unexported fields of others, for some
// verbs, without asking for a Format method, but it shows a function only as a number.
type hidden[T any] func() *T

func hide[T any](v *T) hidden[T] { return func() *T { return v } }
