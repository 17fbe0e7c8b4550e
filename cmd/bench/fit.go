package main

import (
	"fmt"
	"math"
)

// sample is what a size took, in seconds.
type sample struct{ n, took float64 }

// slope is the exponent e of the power law took = c * n^e that is nearest to the samples, by least
// squares of the logarithms. With less than two different sizes there is none: not a number.
func slope(samples []sample) float64 {
	var n, sx, sy, sxx, sxy float64
	for _, s := range samples {
		x, y := math.Log(s.n), math.Log(s.took)
		n, sx, sy, sxx, sxy = n+1, sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}

// last is the two largest of samples that are in order.
func last(samples []sample) []sample { return samples[max(0, len(samples)-2):] }

// order is the slope as text; it stands out where it is clearly over linear.
func order(samples []sample) string {
	switch e := slope(samples); {
	case math.IsNaN(e) || math.IsInf(e, 0):
		return "-"
	case e > 1.1:
		return fmt.Sprintf("**%.2f**", e)
	default:
		return fmt.Sprintf("%.2f", e)
	}
}
