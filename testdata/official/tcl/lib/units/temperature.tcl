array set rules { C,F {$x * 9.0 / 5 + 32} F,C {($x - 32) * 5.0 / 9} }
