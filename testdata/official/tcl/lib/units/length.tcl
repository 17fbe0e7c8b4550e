array set rules { km,mi {$x / 1.609344} mi,km {$x * 1.609344} }
proc convert {from to x} { expr $::rules($from,$to) }
