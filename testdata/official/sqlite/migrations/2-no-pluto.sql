DELETE FROM planets WHERE name = 'Pluto';
